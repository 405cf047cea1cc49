"""The seven layouts: what MiniGrid draws at random, drawn for many episodes at once from uniform numbers."""
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.grid import kinds as k


def pick(u: Tensor, n: Tensor | int) -> Tensor:
    """Uniform numbers in [0, 1) to whole numbers 0 .. n-1, int64."""
    return torch.minimum((u * n).long(), torch.as_tensor(n) - 1)  # u * n may round up to n


def choose(mask: Tensor, u: Tensor) -> Tensor:
    """A uniform choice among the true places of each row: mask (M, K), u (M,) in [0, 1) -> (M,) int64."""
    narrow = torch.int16 if mask.shape[1] < 2**15 else torch.int64  # wide numbers would take three times as long
    rank = mask.cumsum(1, dtype=narrow)
    return (rank > pick(u, rank[:, -1].long())[:, None].to(narrow)).byte().argmax(1)


class Layout:
    """How the grids of a world are drawn, and which rules are special to it. Grids are (M, height, width) uint8 kinds."""

    size: int
    width = property(lambda self: self.size)
    height = property(lambda self: self.size)
    horizon: int  # MiniGrid's step limit
    noise: int = 0  # uniform numbers that one drawing takes
    roams: bool = True  # MiniGrid starts episodes in random places
    alters: bool = False  # doors and things change the grid during an episode
    see_through: bool = False
    opening_wins: bool = False
    pickup_toggles: bool = False

    def draw(self, u: Tensor) -> Tensor:
        """Grids from u (M, noise) in [0, 1)."""
        raise NotImplementedError

    def starts(self, grid: Tensor) -> Tensor:
        """Where an episode may begin: (M, height, width, 4) bool over cells and directions."""
        return (grid == k.EMPTY)[..., None].expand(*grid.shape, 4)

    def home(self, grid: Tensor) -> Tensor:
        """Where episodes begin that do not begin at random, (M,), as cell * 4 + direction: the first of `starts`."""
        if not self.roams:
            return torch.full((len(grid),), (self.width + 1) * 4, device=grid.device)
        return self.starts(grid).flatten(1).byte().argmax(1)

    def _room(self, u: Tensor) -> Tensor:
        grid = torch.full((len(u), self.height, self.width), k.WALL, dtype=torch.uint8, device=u.device)
        grid[:, 1:-1, 1:-1] = k.EMPTY
        return grid

    def _check(self, size: int, least: int, odd: bool = False) -> None:
        if size < least or (odd and size % 2 == 0):
            what = "an odd size" if odd else "a size"
            raise LabError(f"{type(self).__name__} needs {what} of at least {least}; got size={size}.")


def _rows(u: Tensor) -> Tensor:
    return torch.arange(len(u), device=u.device)


@dataclass(frozen=True)
class Empty(Layout):
    """A bare room with the goal in the far corner."""

    size: int = 8
    roams = False
    see_through = True

    def __post_init__(self) -> None:
        self._check(self.size, 4)

    horizon = property(lambda self: 4 * self.size**2)

    def draw(self, u: Tensor) -> Tensor:
        grid = self._room(u)
        grid[:, -2, -2] = k.GOAL
        return grid


@dataclass(frozen=True)
class FourRooms(Layout):
    """Four rooms joined by four gaps, the goal anywhere. MiniGrid's has size 19; smaller ones serve exact lessons."""

    size: int = 19
    horizon = 100
    noise = 5

    def __post_init__(self) -> None:
        self._check(self.size, 7, odd=True)

    def draw(self, u: Tensor) -> Tensor:
        half, row, grid = self.size // 2, _rows(u), self._room(u)
        grid[:, half, :] = grid[:, :, half] = k.WALL
        gap = 1 + pick(u[:, :4], half - 1)
        for side in (0, 1):
            grid[row, gap[:, side] + side * half, half] = k.EMPTY
            grid[row, half, gap[:, 2 + side] + side * half] = k.EMPTY
        grid.view(len(u), -1)[row, choose((grid == k.EMPTY).flatten(1), u[:, 4])] = k.GOAL
        return grid


@dataclass(frozen=True)
class DoorKey(Layout):
    """Two rooms, a locked yellow door between them, its key on the agent's side, the goal on the other."""

    size: int = 8
    noise = 3
    alters = True

    def __post_init__(self) -> None:
        self._check(self.size, 5)

    horizon = property(lambda self: 10 * self.size**2)

    def draw(self, u: Tensor) -> Tensor:
        row, grid = _rows(u), self._room(u)
        grid[:, -2, -2] = k.GOAL
        split = 2 + pick(u[:, 0], self.size - 4)
        grid[row, :, split] = k.WALL
        grid[row, 1 + pick(u[:, 1], self.size - 3), split] = k.LOCKED + k.YELLOW
        near = (grid == k.EMPTY) & (torch.arange(self.size, device=grid.device) < split[:, None, None])
        grid.view(len(u), -1)[row, choose(near.flatten(1), u[:, 2])] = k.KEY + k.YELLOW
        return grid

    def starts(self, grid: Tensor) -> Tensor:
        split = (grid >= k.LOCKED).flatten(1).byte().argmax(1) % self.size
        return super().starts(grid) & (torch.arange(self.size, device=grid.device) < split[:, None, None])[..., None]


@dataclass(frozen=True)
class LavaGap(Layout):
    """A river of lava with one gap between the start and the goal."""

    size: int = 7
    noise = 2
    roams = False

    def __post_init__(self) -> None:
        self._check(self.size, 5)

    horizon = property(lambda self: 4 * self.size**2)

    def draw(self, u: Tensor) -> Tensor:
        row, grid = _rows(u), self._room(u)
        grid[:, -2, -2] = k.GOAL
        x = 2 + pick(u[:, 0], self.size - 4)
        grid[row, 1:-1, x] = k.LAVA
        grid[row, 1 + pick(u[:, 1], self.size - 2), x] = k.EMPTY
        return grid


@dataclass(frozen=True)
class SimpleCrossing(Layout):
    """Walls across the room, as many openings as walls, laid along one hidden path to the goal."""

    size: int = 9
    crossings: int = 1
    roams = False

    def __post_init__(self) -> None:
        self._check(self.size, 5, odd=True)
        if not 1 <= self.crossings <= self.size - 3:
            raise LabError(f"SimpleCrossing of size {self.size} has 1 to {self.size - 3} crossings; got crossings={self.crossings}.")

    horizon = property(lambda self: 4 * self.size**2)
    noise = property(lambda self: self.size - 3 + 2 * self.crossings)

    def draw(self, u: Tensor) -> Tensor:
        chosen, path, opening = u.split([self.size - 3, self.crossings, self.crossings], 1)
        upright, level = torch.zeros_like(chosen, dtype=torch.bool).scatter(1, chosen.argsort(1)[:, : self.crossings], True).chunk(2, 1)
        grid = self._room(u)
        grid[:, 2:-2:2, 1:-1] = torch.where(level[..., None], k.WALL, grid[:, 2:-2:2, 1:-1])
        grid[:, 1:-1, 2:-2:2] = torch.where(upright[:, None], k.WALL, grid[:, 1:-1, 2:-2:2])
        grid[:, -2, -2] = k.GOAL
        self._open(grid, self._limits(upright), self._limits(level), path.argsort(1) < upright.sum(1, keepdim=True), opening)
        return grid

    def _limits(self, chosen: Tensor) -> Tensor:
        """Where the walls of one direction stand, the outer ones included: (M, walls) bool -> (M, walls + 2), ascending."""
        at = torch.where(chosen, torch.arange(2, self.size - 2, 2, device=chosen.device), self.size - 1).sort(1).values
        return torch.cat([torch.zeros_like(at[:, :1]), at, torch.full_like(at[:, :1], self.size - 1)], 1)

    def _open(self, grid: Tensor, xs: Tensor, ys: Tensor, rightward: Tensor, u: Tensor) -> None:
        """Walk from room to room, rightward (M, crossings) or downward, and open each wall that is crossed."""
        row = _rows(u)
        i, j = torch.zeros_like(row), torch.zeros_like(row)
        for right, v in zip(rightward.unbind(1), u.unbind(1), strict=True):
            left, edge, top, floor = xs[row, i], xs[row, i + 1], ys[row, j], ys[row, j + 1]
            x = torch.where(right, edge, left + 1 + pick(v, edge - left - 1))
            y = torch.where(right, top + 1 + pick(v, floor - top - 1), floor)
            grid[row, y, x] = k.EMPTY
            i, j = i + right.long(), j + (~right).long()

    def starts(self, grid: Tensor) -> Tensor:
        """Only rooms on the path: some rooms have no way to the goal."""
        open_, reach = grid != k.WALL, grid == k.GOAL
        for _ in range(self.size**2):
            near = [torch.roll(reach, step, axis) for step in (-1, 1) for axis in (1, 2)]
            wider = reach | (torch.stack(near).any(0) & open_)
            if torch.equal(wider, reach):
                break
            reach = wider
        return super().starts(grid) & reach[..., None]


@dataclass(frozen=True)
class Unlock(Layout):
    """Two rooms, a locked door and its key; opening the door ends the episode. `size` is a room's, walls included."""

    size: int = 6
    noise = 3
    alters = True
    opening_wins = True

    def __post_init__(self) -> None:
        self._check(self.size, 4)

    width = property(lambda self: 2 * self.size - 1)
    horizon = property(lambda self: 8 * self.size**2)

    def draw(self, u: Tensor) -> Tensor:
        row, grid, wall = _rows(u), self._room(u), self.size - 1
        grid[:, :, wall] = k.WALL
        colour = pick(u[:, 0], k.COLOURS).byte()
        grid[row, 1 + pick(u[:, 1], self.size - 2), wall] = k.LOCKED + colour
        spot = pick(u[:, 2], (self.size - 2) ** 2)
        grid[row, 1 + spot // (self.size - 2), 1 + spot % (self.size - 2)] = k.KEY + colour
        return grid

    def starts(self, grid: Tensor) -> Tensor:
        """In the left room, not face to face with the key or the door."""
        ahead = torch.stack([torch.roll(grid, step, axis) for step, axis in ((-1, 2), (-1, 1), (1, 2), (1, 1))], -1)
        left = (torch.arange(self.width, device=grid.device) < self.size - 1)[:, None]
        return super().starts(grid) & left & ((ahead == k.EMPTY) | (ahead == k.WALL))


@dataclass(frozen=True)
class Memory(Layout):
    """A thing seen in the first room must be found again at the end of the hallway; the other thing loses."""

    size: int = 13
    random_length: bool = False
    noise = 3
    pickup_toggles = True

    def __post_init__(self) -> None:
        self._check(self.size, 7, odd=True)

    horizon = property(lambda self: 5 * self.size**2)

    def draw(self, u: Tensor) -> Tensor:
        row, mid, grid = _rows(u), self.size // 2, self._room(u)
        end = 4 + pick(u[:, 0], self.size - 6) if self.random_length else torch.full_like(row, self.size - 3)
        grid[self._walls(end[:, None, None])] = k.WALL
        first, other = (torch.where(v < 0.5, k.KEY, k.BALL).byte() + k.GREEN for v in u[:, 1:].unbind(1))
        grid[:, mid - 1, 1] = first
        grid[row, mid - 2, end + 1] = other
        grid[row, mid + 2, end + 1] = k.KEY + k.BALL + 2 * k.GREEN - other
        grid[row, mid - 1, end + 1] = torch.where(first == other, k.WIN, k.LOSE).byte()
        grid[row, mid + 1, end + 1] = torch.where(first == other, k.LOSE, k.WIN).byte()
        return grid

    def _walls(self, end: Tensor) -> Tensor:
        """The walls of room and hallway, which ends at column `end` (M, 1, 1): (M, height, width) bool."""
        x = torch.arange(self.size, device=end.device)
        off = (x[:, None] - self.size // 2).abs()
        room = (off == 2) & (x >= 1) & (x <= 4)
        hallway = (off == 1) & (x >= 4) & (x < end)
        return room | hallway | ((x == end) & (off > 0)) | (x == end + 2)

    def starts(self, grid: Tensor) -> Tensor:
        """Anywhere along the hallway before its end, facing right."""
        x = torch.arange(self.size, device=grid.device)
        end = (grid == k.WIN).flatten(1).byte().argmax(1) % self.size - 1
        along = (x[:, None] == self.size // 2) & (x <= end[:, None, None])
        return super().starts(grid) & along[..., None] & torch.tensor([True, False, False, False], device=grid.device)
