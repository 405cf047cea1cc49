"""Web forms, seen as pictures: on each page press the button that shows what is wanted, go on, send. Only what is sent is marked."""
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.tokens.world import EMPTY, Problem, TokenWorld, each, spread

GLYPHS = {"x": "101010101", "+": "010111010", "o": "111101111", "-": "000111000", "|": "010010010", "/": "001010100"}  # 3 x 3 pixels
PAGES = ("x+o-", "|/xo", "+-/|", "ox|+", "-/+x", "/o-|", "x|+/", "o-x/")  # what their buttons show; a form has some that follow each other
SITE = "ABCDEFGH"  # their names
BUTTONS = 4
NEXT, SEND = BUTTONS, BUTTONS + 1
UNPRESSED = BUTTONS
HEIGHT, WIDTH = 4, 16  # pixels of a page


class Filling(NamedTuple):
    """A node: pages left and the glyph wanted on each, the button that is pressed, whether a page was left wrong, clicks left."""

    left: tuple[tuple[str, str], ...]
    pressed: int
    spoilt: bool
    room: int


SENT = {right: Filling((), UNPRESSED, not right, 0) for right in (False, True)}


@register("web.form")
class Form(TokenWorld):
    """A form has 3 to 5 pages, its level. Each page shows four buttons with a glyph each, and the glyph that is wanted.

    A click is a token: a button, "next" on a page with a pressed button, "send" on the last one; any other does nothing and costs a
    click. What was pressed can be pressed again otherwise as long as the page is there. The mark is 1 for a form sent with what is
    wanted on every page; after 2 clicks a page and `slack` more it is 0. Pages come in the order of the site, so forms share them,
    and what is learnt on one helps others.

    tasks, held, impossible: forms of each level to train on, held out, and to train on that have a page without the glyph wanted,
    one number or one for each of `pages`. An impossible form has no solution.
    """

    features = (*[len(GLYPHS)] * (BUTTONS + 1), BUTTONS + 1, 2)

    def __init__(
        self, pages: Sequence[int] = (3, 4, 5), tasks: int | Sequence[int] = 16, held: int | Sequence[int] = 4,
        impossible: int | Sequence[int] = (5, 5, 6), slack: int = 2, seed: int = 0, text: bool = False,
    ) -> None:  # fmt: skip
        """LabError for pages that a form cannot have, negative slack, or more forms than there are."""
        if not pages or not all(1 <= n <= len(PAGES) for n in pages):
            raise LabError(f"A form of web.form has 1 to {len(PAGES)} pages; got {tuple(pages)}.")
        if slack < 0:
            raise LabError(f"The slack of web.form is 0 clicks or more; got {slack}.")
        counts = zip(pages, each(tasks, pages), each(held, pages), each(impossible, pages), strict=True)
        listed = [p for n, asked, kept, bare in counts for p in _problems(n, asked, kept, bare, slack, seed)]
        super().__init__("web.form", ("1", "2", "3", "4", "next", "send"), (*SITE, *GLYPHS, "="), listed, text)

    def after(self, node: Filling, token: int) -> Filling:
        page, wanted = node.left[0]
        right = node.pressed != UNPRESSED and page[node.pressed] == wanted
        if token == SEND and len(node.left) == 1 and node.pressed != UNPRESSED:
            return SENT[right and not node.spoilt]
        if node.room == 1:
            return SENT[False]
        node = node._replace(room=node.room - 1)
        if token == NEXT and len(node.left) > 1 and node.pressed != UNPRESSED:
            return node._replace(left=node.left[1:], pressed=UNPRESSED, spoilt=node.spoilt or not right)
        return node._replace(pressed=token) if token < BUTTONS else node

    def over(self, node: Filling) -> bool:
        return not node.left

    def mark(self, node: Filling) -> float:
        return float(not node.spoilt)

    def answer(self, node: Filling) -> int:
        return int(not node.spoilt)

    def see(self, node: Filling) -> tuple[int, ...]:
        page, wanted = node.left[0]
        return *(list(GLYPHS).index(glyph) for glyph in page + wanted), node.pressed, int(len(node.left) == 1)

    def featurise(self, seen: Tensor) -> Tensor:
        """seen (R, features) int64 -> pixels (R, HEIGHT * WIDTH): what is wanted, a gap, four buttons; below, a bar under what is pressed
        and, to the left, a broad bar where the form can be sent and a dot where it goes on."""
        glyphs = torch.tensor([[int(pixel) for pixel in picture] for picture in GLYPHS.values()]).view(-1, 3, 3)
        shown = glyphs[seen[:, : BUTTONS + 1]]  # (R, 5, 3, 3)
        picture = torch.zeros(len(seen), HEIGHT, WIDTH)
        picture[:, :3, :3] = shown[:, BUTTONS]
        picture[:, :3, 4:] = shown[:, :BUTTONS].transpose(1, 2).flatten(2)
        picture[:, 3, 4:] = (seen[:, -2, None] == torch.arange(BUTTONS)).repeat_interleave(3, 1).float()
        picture[:, 3, :3] = torch.tensor([[0.0, 1, 0], [1, 1, 1]])[seen[:, -1]]
        return picture.flatten(1)


def _problems(pages: int, tasks: int, held: int, impossible: int, slack: int, seed: int) -> list[Problem]:
    """The forms of a level: those to train on, those held out, the impossible ones."""
    places, absent = BUTTONS**pages, pages * (len(GLYPHS) - BUTTONS) * BUTTONS ** (pages - 1)
    possible = spread(len(PAGES) * places, tasks + held, seed)
    asked = [(_form(number, pages), i >= tasks) for i, number in enumerate(possible)]
    asked += [(_form(number // pages, pages, number % pages), False) for number in spread(len(PAGES) * absent, impossible, seed)]
    return [_problem(form, held_out, slack) for form, held_out in asked]


def _form(number: int, pages: int, bare: int = EMPTY) -> tuple[tuple[str, str], ...]:
    """Form number so many; page `bare` lacks what is wanted there."""
    number, first = divmod(number, len(PAGES))
    form = []
    for i in range(pages):
        page = PAGES[(first + i) % len(PAGES)]
        wishes = [glyph for glyph in GLYPHS if (glyph in page) != (i == bare)]
        number, wish = divmod(number, len(wishes))
        form.append((page, wishes[wish]))
    return tuple(form)


def _problem(form: tuple[tuple[str, str], ...], held_out: bool, slack: int) -> Problem:
    clicks = [click for page, wanted in form for click in (str(page.find(wanted) + 1), "next")]
    possible = all(wanted in page for page, wanted in form)
    prompt = (SITE[PAGES.index(form[0][0])], *(wanted for _, wanted in form), "=")
    start = Filling(form, UNPRESSED, False, len(clicks) + slack)
    return Problem(prompt, len(form), (*clicks[:-1], "send") if possible else (), start, held_out)
