"""Web forms: the graph against a browser written anew, what a picture shows, and forms that nobody can fill in."""
import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.worlds.form import GLYPHS, HEIGHT, PAGES, SITE, WIDTH, Form
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.world import EMPTY


@pytest.fixture(scope="module")
def world():
    return worlds.make("web.form")


def impossible(world):
    return (world.solution == EMPTY).all(1)


def random_policy(world, lanes=2):
    return Categorical((3 * Lanes(tuple(range(lanes))).rand(1, len(world.graph.obs), len(world.tokens))).double())


class Browser:
    """The rules told once more, from the words of the prompt: the mark of some clicks, None while more can follow."""

    def __init__(self, world, problem):
        letter, *self.wanted, _ = world.words(world.prompt[problem])
        at = SITE.index(letter)
        self.pages = [PAGES[(at + i) % len(PAGES)] for i in range(len(self.wanted))]
        self.clicks = 2 * len(self.wanted) + 2
        self.chosen = [None] * len(self.wanted)
        self.page = 0

    def click(self, word):
        self.clicks -= 1
        last = self.page == len(self.wanted) - 1
        if word.isdigit():
            self.chosen[self.page] = self.pages[self.page][int(word) - 1]
        elif word == "next" and self.chosen[self.page] and not last:
            self.page += 1
        elif word == "send" and self.chosen[self.page] and last:
            return float(self.chosen == self.wanted)
        return None if self.clicks else 0.0


def test_what_is_sent_is_marked_as_a_browser_would(world):
    """Solutions with up to three other clicks put in or exchanged, against the browser, click by click."""
    generator, sent, marks = torch.Generator().manual_seed(0), 0, set()
    for problem in list(range(len(world.start))) * 12:
        clicks = [t for t in world.solution[problem].tolist() if t != EMPTY] or [0, 4, 1, 4, 2, 5]
        for _ in range(int(torch.randint(0, 4, (), generator=generator))):
            at, token = (int(torch.randint(0, n, (), generator=generator)) for n in (len(clicks), len(world.tokens)))
            clicks = [*clicks[:at], token, *clicks[at + int(torch.randint(0, 2, (), generator=generator)) :]]
        browser, node = Browser(world, problem), world.start[problem]
        for token in clicks:
            mark, node = browser.click(world.tokens[token]), world.graph.next[node, token]
            assert (mark is not None) == bool(node < world.graph.finished)
            if mark is not None:
                assert world.graph.reward[node] == mark and world.graph.answer[node] == mark
                sent, marks = sent + 1, marks | {mark}
                break
    assert sent > 300 and marks == {0.0, 1.0}


def test_a_mistake_can_be_mended_on_its_page_and_not_after_it(world):
    clicks = world.solution[0, :6].tolist()
    other = (clicks[0] + 1) % 4

    def mark(*sequence):
        node = world.start[0]
        for token in sequence:
            node = world.graph.next[node, token]
        return node < world.graph.finished, world.graph.reward[node].item()

    assert mark(other, *clicks) == (True, 1.0) and mark(other, *clicks[1:]) == (True, 0.0)
    assert mark(4, 5, *clicks) == (True, 1.0)  # neither "next" nor "send" does anything on a page where nothing is pressed
    assert mark(4, 5, 4, *clicks[:5]) == (True, 0.0)  # the eighth click is the last


def test_the_defaults_are_64_tasks_of_6_to_12_clicks_of_which_16_cannot_be_done(world):
    pool, level = world.pool, world.level
    assert len(pool) == 64 and int(impossible(world)[pool].sum()) == 16 and not impossible(world)[world.held_out].any()
    assert level[pool].unique().tolist() == [3, 4, 5] and world.horizon == 12 and len(world.graph.row) < 15_000
    lengths = (world.solution != EMPTY).sum(1)[~impossible(world)]
    assert torch.equal(lengths, 2 * level[~impossible(world)])


def test_only_impossible_forms_are_out_of_reach(world):
    told = truth.success(world.graph, random_policy(world).probs)[:, world.start]
    assert ((told == 0) == impossible(world)).all()
    for i in impossible(world).nonzero()[:, 0].tolist():
        browser = Browser(world, i)
        assert sum(glyph not in page for page, glyph in zip(browser.pages, browser.wanted, strict=True)) == 1


def test_what_is_seen_is_a_picture_of_the_page(world):
    problem = int(world.start.argmax())
    browser = Browser(world, problem)
    state = world.begin(torch.tensor([[problem]]))
    for click in (1, 3, 4):
        picture = world.observe(state)[0, 0].view(HEIGHT, WIDTH)
        drawn = ["".join(str(int(p)) for p in picture[:3, 4 + 3 * b : 7 + 3 * b].flatten()) for b in range(4)]
        assert drawn == [GLYPHS[glyph] for glyph in browser.pages[browser.page]]
        assert "".join(str(int(p)) for p in picture[:3, :3].flatten()) == GLYPHS[browser.wanted[browser.page]]
        pressed = browser.chosen[browser.page]
        bar = [3 * browser.pages[browser.page].index(pressed) + i for i in range(3)] if pressed else []
        assert picture[3, 4:].nonzero()[:, 0].tolist() == bar and picture[3, :3].tolist() == [0, 1, 0]
        browser.click(world.tokens[click])
        state, *_ = world.step(state, torch.tensor([[click]]), torch.empty(1, 1, 0))
    assert not picture[:3, 3].any() and len(world.graph.obs.unique(dim=0)) == len(world.graph.obs)


def test_the_last_page_shows_that_the_form_can_be_sent():
    world = Form((1,), tasks=3, held=0, impossible=0)
    pictures = world.graph.obs.view(-1, HEIGHT, WIDTH)
    assert (pictures[:, 3, :3] == 1).all() and world.horizon == 4


def test_forms_are_read_as_text_too():
    world = Form((3,), tasks=2, held=1, impossible=1, text=True)
    assert world.words(world.prompt[0])[-1] == "=" and world.obs_size == 5 + 8
    assert world.words(world.solution[3]) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pages": ()}, "A form of web.form has 1 to 8 pages; got \\(\\)"), ({"pages": (9,), "impossible": 0}, "got \\(9,\\)"),
        ({"slack": -1}, "The slack of web.form is 0 clicks or more; got -1"), ({"tasks": (1, 2)}, "one number for each of 3 levels"),
        ({"pages": (1,), "tasks": 30, "impossible": 0}, "There are 32 different problems"),
        ({"pages": (1,), "impossible": 17}, "There are 16 different problems"),
        ({"tasks": 0, "impossible": 0}, "no problem to train on"),
    ],
)  # fmt: skip
def test_forms_that_cannot_be_are_refused_in_a_sentence(options, says):
    with pytest.raises(LabError, match=says):
        worlds.make("web.form", **options)
