"""What the agent sees: MiniGrid's 7 x 7 view and its visibility, eight cells to a 64-bit word."""
from functools import cache

import torch
from torch import Tensor

from labkit.worlds.grid.kinds import OPAQUE

VIEW = 7
LINE = 8  # a line of the view in bytes: 7 cells and one to fill the word
SEAT = (VIEW - 1) * LINE + VIEW // 2  # the agent's own cell: the middle of the last line
VECTORS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # right, down, left, up as (x, y)
_BYTES = 0x0101010101010101
_GATHER = 0x0102040810204080  # times a word of 0/1 bytes puts them side by side in the top byte


@cache
def places(width: int, height: int, device: torch.device) -> Tensor:
    """Which cells are seen from where: (cells * 4, 56) int64, row cell * 4 + direction, lines from far to near.

    Cells outside the grid point at cell 0, a corner, which is wall in every layout, as MiniGrid shows them.
    """
    cell = torch.arange(width * height, device=device)[:, None, None]
    vectors = torch.tensor(VECTORS, device=device)[None, :, :, None]
    ahead = (VIEW - 1 - torch.arange(VIEW, device=device)).repeat_interleave(LINE)
    right = (torch.arange(LINE, device=device) - VIEW // 2).repeat(VIEW)
    x = cell % width + vectors[:, :, 0] * ahead - vectors[:, :, 1] * right
    y = cell // width + vectors[:, :, 1] * ahead + vectors[:, :, 0] * right
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (right < LINE - 1 - VIEW // 2)
    return torch.where(inside, y * width + x, 0).view(-1, VIEW * LINE)


def _spread(lit: int, opaque: int) -> tuple[int, int]:
    """One line of MiniGrid's process_vis: 7-bit masks (lit so far, opaque) -> (lit at last, lit in the next line)."""
    above = 0
    for order, side in ((range(VIEW - 1), 1), (range(VIEW - 1, 0, -1), -1)):
        for i in order:
            if lit >> i & 1 and not opaque >> i & 1:
                lit |= 1 << (i + side)
                above |= 1 << (i + side) | 1 << i
    return lit, above


@cache
def _sight(device: torch.device) -> tuple[Tensor, Tensor]:
    """`_spread` for all 2^14 inputs: (byte mask of the cells lit, next line's mask shifted to index these tables)."""
    pairs = [_spread(lit, opaque) for lit in range(1 << VIEW) for opaque in range(1 << VIEW)]
    shown = [sum(0xFF << (8 * i) for i in range(VIEW) if lit >> i & 1) for lit, _ in pairs]
    return torch.tensor(shown, device=device), torch.tensor([above << VIEW for _, above in pairs], device=device)


def visible(lines: Tensor) -> Tensor:
    """Hide what MiniGrid hides. lines (B, 7) int64, each a line of kinds -> the same with hidden cells 0 (UNSEEN)."""
    opaque = (lines >> OPAQUE.bit_length() - 1) & _BYTES
    opaque = ((opaque * _GATHER) >> 56) & (1 << VIEW) - 1
    shown, above = _sight(lines.device)
    lit = torch.full_like(lines[:, 0], 1 << VIEW // 2 + VIEW)
    seen = torch.empty_like(lines)
    for j in reversed(range(VIEW)):
        index = lit + opaque[:, j]
        seen[:, j] = shown[index]
        lit = above[index]
    return lines & seen


def partial(grid: Tensor, pos: Tensor, direction: Tensor, load: Tensor, width: int, see_through: bool) -> Tensor:
    """The kinds in view, by column then line as MiniGrid has them: grid (B, cells) uint8, the rest (B,) -> (B, 7, 7) uint8."""
    where = places(width, grid.shape[1] // width, grid.device)[pos * 4 + direction]
    kinds = grid.gather(1, where)
    if not see_through:
        kinds = visible(kinds.view(torch.int64)).view(torch.uint8)
    kinds[:, SEAT] = load.to(torch.uint8)
    return kinds.view(-1, VIEW, LINE)[..., :VIEW].transpose(1, 2)
