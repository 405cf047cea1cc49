"""Responses as text, and tokens before and after an update: what is drawn of numbers that were chosen by hand."""
import re
from dataclasses import fields, replace
from itertools import islice

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.grpo.family import Shape, grpo
from labkit.grpo.inside import Inside, inside
from labkit.lanes import Lanes
from labkit.record import record
from labkit.studio import figures
from labkit.studio.figures.responses import COLOUR, RARE

WORLD = worlds.make("tokens.chain", levels=(2,), problems=3, held=0)
CHANCE = torch.tensor([[[0.5, 0.8], [0.1, 1e-6]], [[0.2, 0.4], [0.3, 0.6]]])  # two prompts, two responses of two tokens


def made(factor=1.5, **parts):
    """One lane. Both first responses are right; the last one is dropped."""
    adv = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[0.0, 0.0], [2.0, -2.0]]])
    sound = {
        "problem": torch.tensor([2, 0]), "token": torch.tensor([[[3, 10], [4, 5]], [[6, -1], [7, 8]]]),
        "real": torch.tensor([[True, True], [True, False]]), "right": torch.tensor([[True, False], [True, False]]),
        "reward": torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "adv": adv, "old": CHANCE.log(), "before": (CHANCE / 2).log(),
        "after": (CHANCE * factor).clamp_max(1).log(), "entropy": torch.full_like(CHANCE, 0.7), "kl": CHANCE / 10,
        "weight": adv * torch.tensor([1.0, 0.0]), "clipped": torch.zeros(2, 2, 2, dtype=torch.bool),
        "bounds": torch.tensor([0.8, 1.28]), "dropped": torch.tensor(0),
    } | parts  # fmt: skip
    return Inside(**{name: x[None] for name, x in sound.items()})


def tokens(page):
    """(classes, opacity, colour, sign, number) of each token that is shown."""
    pattern = r'<span class="token ([a-z]*)" style="background:rgba\(var\(--(up|down)\),([\d.]+)\)" title="[^"]*">'
    pattern += "(.*?) <small>(.*?)</small>"
    found = re.findall(pattern, page)
    return [(state, way, float(strength), sign, number) for state, way, strength, sign, number in found]


def test_a_group_is_read_token_by_token():
    page = figures.responses(WORLD, made(), 0, "probability").data
    assert [t[3:] for t in tokens(page)] == [("3", "0.25"), ("10", "0.4"), ("4", "0.05"), ("5", "5e-07")]
    assert [t[2] for t in tokens(page)] == [0.15, 0.24, 0.03, 0.0]
    assert page.index("✓ right") < page.index("✗ wrong") and "<td class=number>+1.00</td>" in page
    asked, right = (" ".join(WORLD.words(text[2])) for text in (WORLD.prompt, WORLD.solution))
    assert f"<b class=sign>{asked}</b>" in page and f"<b class=sign>{right}</b>" in page
    assert len(tokens(figures.responses(WORLD, made(), 1).data)) == 3, "what was not written is not shown"


@pytest.mark.parametrize(
    "colour, drawn",
    [
        ("entropy", [("up", 0.6, "0.7")] * 4),
        ("advantage", [("up", 0.3, "+1")] * 2 + [("down", 0.3, "-1")] * 2),
        ("ratio", [("up", 0.6, "1.50"), ("up", 0.33, "1.25"), ("up", 0.6, "1.50"), ("up", 0.6, "1.50")]),
        ("kl", [("up", 0.38, "0.05"), ("up", 0.6, "0.08"), ("up", 0.07, "0.01"), ("up", 0.0, "1e-07")]),
        ("weight", [("up", 0.3, "+1"), ("up", 0.0, "+0"), ("down", 0.3, "-1"), ("up", 0.0, "+0")]),
    ],
)
def test_tokens_are_coloured_by_what_is_asked_for(colour, drawn):
    page = figures.responses(WORLD, made(), 0, colour).data
    assert [(way, strength, number) for _, way, strength, _, number in tokens(page)] == drawn and COLOUR[colour].words in page


def test_a_few_tokens_beyond_all_others_do_not_take_the_colour_from_them():
    tokens_, adv = torch.full((40, 2, 2), 3), torch.ones(40, 2, 2)
    adv[7, 0, 0] = -50.0
    each = {"problem": torch.zeros(40, dtype=torch.int64), "real": torch.ones(40, 2, dtype=torch.bool), "token": tokens_, "adv": adv}
    each |= {name: torch.zeros(40, 2, 2) for name in ("old", "before", "after", "entropy", "kl", "weight", "clipped")}
    page = figures.responses(WORLD, made(**each, right=each["real"], reward=torch.zeros(40, 2)), 7, "advantage").data
    assert [t[1:3] for t in tokens(page)] == [("down", 0.6), ("up", 0.6), ("up", 0.6), ("up", 0.6)]
    assert re.search("≤ -1 .*≥ [+]1<", page)


def test_what_became_of_a_token_is_marked_and_told():
    clipped = torch.zeros(2, 2, 2, dtype=torch.bool)
    clipped[0, 0, 1] = True
    pages = [figures.responses(WORLD, made(clipped=clipped), prompt).data for prompt in (0, 1)]
    assert [t[0] for page in pages for t in tokens(page)] == ["", "clipped", "", "noweight", "noweight", "dropped", "dropped"]
    assert "advantage +1; ratio 1.25; kl 0.08; weight +0; probability after 1; clipped" in pages[0]
    assert "<td class=number>dropped</td><td class=number>none</td>" in pages[1]


def test_a_task_that_cannot_be_done_is_told():
    world = worlds.make("web.form", pages=(3,), tasks=1, held=0, impossible=1)
    undoable = (world.solution == -1).all(1).long().argmax()
    assert "no response is right" in figures.responses(world, made(problem=undoable.expand(2), token=made().token[0].clamp_max(3))).data


def test_advantages_that_differ_within_a_response_are_told():
    assert "-2.00 to +2.00" in figures.responses(WORLD, made(real=torch.ones(2, 2, dtype=torch.bool)), 1).data


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"colour": "mood"}, "no 'mood' to be coloured by; choose one of probability, entropy, advantage, ratio, kl, weight"),
        ({"prompt": 2}, "no prompt 2; its prompts go from 0 to 1"),
        ({"lane": -1}, "no lane -1; its lanes go from 0 to 0"),
    ],
)
def test_what_is_not_there_is_told(bad, message):
    with pytest.raises(LabError, match=message):
        figures.responses(WORLD, made(), **bad)


def points(trace):
    return [*zip(trace.x, trace.y, trace.text, strict=True)]


def test_tokens_are_drawn_before_and_after_by_the_sign_of_their_advantage():
    """Of the six that count, four are seen as they are; one is too rare, one is no more likely than 1."""
    clipped = torch.zeros(2, 2, 2, dtype=torch.bool)
    clipped[0, 0, 1] = True
    fig = figures.before_after(WORLD, [made(clipped=clipped)])
    same, low, high, up, down, none, rings = fig.data
    near = lambda *rows: [(pytest.approx(x), pytest.approx(y), sign) for x, y, sign in rows]  # noqa: E731
    assert points(up) == near((0.5, 0.75, "3"), (0.8, 1, "10")) and points(rings) == near((0.8, 1, "10"))
    assert points(down) == near((0.1, 0.15, "4"), (RARE, RARE, "5")) and down.customdata[1] == pytest.approx([1e-6, 1.5e-6])
    assert points(none) == near((0.2, 0.3, "6"))
    assert [y / x for line in (same, low, high) for x, y in zip(line.x, line.y, strict=True)] == pytest.approx([1, 1, 0.8, 0.8, 1.28, 1.28])
    assert fig.layout.xaxis.title.text == "old probability"
    assert "of 2 with advantage > 0, 2 rose and 0 fell" in figures.alt(fig) and "1 were clipped" in figures.alt(fig)


def test_without_a_clip_the_policy_before_is_drawn_and_one_prompt_alone_where_it_is_asked_for():
    fig = figures.before_after(WORLD, [made(bounds=torch.tensor([0.0, torch.inf]))], prompt=1)
    _, low, high, up, _, none, _ = fig.data
    assert points(none) == [(pytest.approx(0.1), pytest.approx(0.3), "6")] and not up.x
    assert not low.x and not high.x and not high.showlegend and fig.layout.xaxis.title.text == "probability before the update"


def test_updates_are_slid_through():
    fig = figures.before_after(WORLD, [made(1.5), made(0.5)], names=["4", "8"])
    assert [frame.name for frame in fig.frames] == ["4", "8"] and fig.frames[0].traces == (0, 1, 2, 3, 4, 5, 6)
    assert [frame.data[3].y[0] for frame in fig.frames] == pytest.approx([0.75, 0.25]) and fig.data[3].y[0] == pytest.approx(0.25)
    with pytest.raises(LabError, match="2 updates and 0 names; give one for each"):
        figures.before_after(WORLD, [made(), made()])


def test_all_groups_are_seen_at_once():
    fig = figures.groups(WORLD, made(), opened=1)
    right, _, dropped = fig.data
    assert [[*zip(t.x, t.y, strict=True)] for t in fig.data] == [[(0, 0), (0, 1)], [(1, 0)], [(1, 1)]]
    assert right.marker.opacity == (1.0, pytest.approx(0.35)) and dropped.marker.opacity == (pytest.approx(0.35),)
    asked = [" ".join(WORLD.words(WORLD.prompt[number])) for number in (2, 0)]
    assert fig.layout.yaxis.ticktext == (asked[0], f"<b>▸ {asked[1]}</b>")
    assert figures.alt(fig).startswith("2 of 3 responses to 2 prompts are right") and "1 groups have no advantage" in figures.alt(fig)
    assert len({trace.marker.symbol for trace in fig.data}) == 3, "not by colour alone"


def test_updates_are_recorded_and_found_again():
    lanes, method = Lanes((0, 1)), replace(grpo, shape=Shape(prompts=3, group=2, width=16, warm=0.0))
    kept = record(method, WORLD, lanes, 18, fields=figures.watch_inside(method, WORLD))
    snapshots = islice(method.run(WORLD, lanes), 3)
    for moment, snapshot in enumerate(snapshots):
        there, here = figures.update_at(kept, moment), inside(method, WORLD, snapshot.learner)
        assert all(getattr(there, f.name).equal(getattr(here, f.name)) for f in fields(Inside))
    with pytest.raises(LabError, match="lacks what is seen inside its updates"):
        figures.update_at(record(method, WORLD, lanes, 6), 0)
