"""The grid world: MiniGrid's rules on tensors, one lookup per step."""
import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds.grid import kinds as k
from labkit.worlds.grid.layouts import Layout, choose, pick
from labkit.worlds.grid.table import Namer, reach
from labkit.worlds.grid.view import VECTORS, VIEW, partial
from labkit.worlds.world import Discrete, State, World


class GridWorld(World):
    """A layout under MiniGrid's rules.

    State: `grid` (L, E, width * height) uint8 kinds, row by row; `pos` (L, E) = y * width + x; `dir` (L, E), 0 to 3 for
    right, down, left, up; `load` (L, E), the kind that is carried or EMPTY; `time` (L, E), steps since the start.

    view: "partial", the 7 x 7 x 3 codes that MiniGrid's agent sees; "full", the codes of all cells; both divided by 10;
    "state", one-hot over the states that can be reached (layout_seed needed).
    layout_seed: None draws a new layout every episode; a whole number fixes one, goal, doors and things included.
    random_start: episodes begin in random places; otherwise in the first of them in reading order, facing right.
    max_steps: when an episode is cut. The last two default to MiniGrid's choice for the layout.
    """

    obs_low, obs_high = 0.0, 1.0

    def __init__(self, key: str, layout: Layout, view: str = "partial", layout_seed: int | None = None,
                 random_start: bool | None = None, max_steps: int | None = None) -> None:
        self.key, self.layout, self.view, self.actions = key, layout, view, Discrete(k.ACTIONS)
        self.width, self.height = layout.width, layout.height
        self.horizon = layout.horizon if max_steps is None else max_steps
        if self.horizon < 1:
            raise LabError(f"{key} needs at least one step an episode; got max_steps={max_steps}.")
        self.random_start = layout.roams if random_start is None else random_start
        self._codes = k.codes()
        self._scaled = self._codes.float() / 10
        self._effects = k.effects(layout.opening_wins, layout.pickup_toggles)
        self._ahead = torch.tensor([y * self.width + x for x, y in VECTORS])
        self._turn = torch.tensor([3, 1, 0, 0, 0, 0, 0])
        self._by_column = torch.arange(self.width * self.height).view(self.height, self.width).T.reshape(-1)
        self.plan: Tensor | None = None  # the fixed layout, (1, cells)
        if layout_seed is not None:
            self.plan = layout.draw(Lanes((layout_seed,)).rand(0, layout.noise)).flatten(1)
            self._starts = self.starts(self.plan)
        self.reset_noise = int(self.random_start) + (layout.noise if layout_seed is None else 0)
        self._look_with(view)

    def _look_with(self, view: str) -> None:
        cells = self.width * self.height
        sizes = {"partial": VIEW * VIEW * 3, "full": cells * 3, "state": 0}
        if view not in sizes:
            raise LabError(f"{self.key} has the views partial, full and state; got view={view!r}.")
        self.obs_size = sizes[view]
        if view == "state":
            self._name = Namer(self.fixed_plan())
            self._names = self._name(reach(self, self._name))
            self.obs_size = self._names.shape[1]

    def fixed_plan(self) -> Tensor:
        """The fixed layout, (1, cells) uint8 kinds. LabError where every episode has another layout."""
        if self.plan is None:
            raise LabError(f"{self.key} draws a new layout every episode, so its states cannot be listed; fix one with layout_seed=0.")
        return self.plan

    @property
    def cells(self) -> dict[str, Tensor]:
        """Where things lie in the fixed layout: name -> (n, 2) int64, columns x and y."""
        plan = self.fixed_plan()[0]
        groups = {"wall": {k.WALL}, "goal": {k.GOAL}, "lava": {k.LAVA}, "win": {k.WIN}, "lose": {k.LOSE},
                  "key": range(k.KEY, k.KEY + 8), "ball": range(k.BALL, k.BALL + 8), "door": range(k.CLOSED, k.LOCKED + 8)}
        at = {name: torch.isin(plan, plan.new_tensor(list(kinds))).nonzero()[:, 0] for name, kinds in groups.items()}
        return {name: torch.stack([i % self.width, i // self.width], 1) for name, i in at.items()}

    def starts(self, grid: Tensor) -> Tensor:
        """Where episodes may begin on one grid (1, cells): (n,) int64, cell * 4 + direction."""
        square = grid.view(1, self.height, self.width)
        return self.layout.starts(square).flatten().nonzero()[:, 0] if self.random_start else self.layout.home(square)

    def _draw(self, u: Tensor) -> State:
        """First states from u (M, reset_noise): tensors (M, ...)."""
        if self.plan is None:
            square = self.layout.draw(u[:, : self.layout.noise])
            start = choose(self.layout.starts(square).flatten(1), u[:, -1]) if self.random_start else self.layout.home(square)
            grid = square.flatten(1)
        else:
            start = self._starts[pick(u[:, 0], len(self._starts))] if self.random_start else self._starts.expand(len(u))
            grid = self.plan.expand(len(u), -1)
        zero = torch.zeros_like(start)
        return {"grid": grid, "pos": start // 4, "dir": start % 4, "load": zero + k.EMPTY, "time": zero}

    def reset(self, u: Tensor) -> State:
        """First states of episodes from u (L, E, reset_noise): a layout unless it is fixed, then a start."""
        drawn = self._draw(u.flatten(0, 1))
        return {name: v.reshape(*u.shape[:2], *v.shape[1:]) for name, v in drawn.items()}

    def restart(self, state: State, done: Tensor, u: Tensor) -> State:
        """Draw fresh episodes where `done` (L, E), and only there: drawing a layout is the slow part."""
        index = done.flatten().nonzero()[:, 0]
        if not len(index):
            return state
        fresh = self._draw(u.flatten(0, 1)[index])
        return {name: v.flatten(0, 1).index_copy(0, index, fresh[name]).view_as(v) for name, v in state.items()}

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """MiniGrid's step; the reward of success is 1 - 0.9 * time / horizon."""
        move = self._ahead[state["dir"]]
        front = (state["pos"] + move)[..., None]
        ahead = state["grid"].gather(2, front)[..., 0].long()
        ahead, load, go, end, win = self._effects[(ahead * k.LOADS + state["load"]) * k.ACTIONS + action].unbind(-1)
        grid = state["grid"].scatter(2, front, ahead[..., None].byte()) if self.layout.alters else state["grid"]
        time = state["time"] + 1
        reward = (win * (1 - 0.9 * (time.double() / self.horizon))).float()
        direction = (state["dir"] + self._turn[action]) & 3
        after = {"grid": grid, "pos": state["pos"] + go * move, "dir": direction, "load": load, "time": time}
        return after, reward, end.bool(), time >= self.horizon

    def _seen(self, state: State) -> Tensor:
        flat = {name: v.flatten(0, 1) for name, v in state.items()}
        kinds = partial(flat["grid"], flat["pos"], flat["dir"], flat["load"], self.width, self.layout.see_through)
        return kinds.reshape(-1).int()

    def image(self, state: State) -> Tensor:
        """What MiniGrid calls obs["image"]: (L, E, 7, 7, 3) uint8; its obs["direction"] is state["dir"]."""
        return self._codes[self._seen(state)].view(*state["pos"].shape, VIEW, VIEW, 3)

    def full_image(self, state: State) -> Tensor:
        """What MiniGrid's FullyObsWrapper shows: (L, E, width, height, 3) uint8."""
        return self._codes[self._all(state)].view(*state["pos"].shape, self.width, self.height, 3)

    def _all(self, state: State) -> Tensor:
        agent = (k.AGENT + state["dir"]).byte()[..., None]
        return state["grid"].scatter(2, state["pos"][..., None], agent)[..., self._by_column].reshape(-1).int()

    def number(self, state: State) -> Tensor:
        """Which of the listed states it is: (L, E) int64; only with view="state"."""
        return torch.searchsorted(self._names[0], self._name(state))

    def observe(self, state: State) -> Tensor:
        """What the policy sees, (L, E, obs_size) float32, as `view` says."""
        if self.view == "state":
            return (self._name(state)[..., None] == self._names[0]).float()  # all zeros once the episode has ended: nothing is listed there
        kinds = self._seen(state) if self.view == "partial" else self._all(state)
        return self._scaled.index_select(0, kinds).view(*state["pos"].shape, self.obs_size)

    def picture(self, state: State, lane: int = 0, env: int = 0, tile: int = 32) -> np.ndarray:
        """MiniGrid's own drawing of one environment: (height * tile, width * tile, 3) uint8, what the agent sees highlighted."""
        from labkit.worlds.grid.mini import to_minigrid  # MiniGrid loads slowly and is needed for pictures only

        return to_minigrid(self, state, lane, env).get_frame(tile_size=tile)
