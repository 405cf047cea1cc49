"""tokens.countdown: what is right, what spoils, what is seen, and how many solutions there are."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.countdown import LENGTH, SIZES
from labkit.worlds.tokens.world import EMPTY


@pytest.fixture(scope="module")
def world():
    return worlds.make("tokens.countdown")


def asked(world, problem):
    """The digits on offer, and the target."""
    *offer, _, target = world.words(world.prompt[problem])
    return [int(d) for d in offer], int(target)


def test_the_number_of_solutions_is_that_of_all_responses_tried_one_by_one(world):
    uniform = torch.full((1, len(world.graph.obs), 11), 1 / 11, dtype=torch.float64)
    told = truth.success(world.graph, uniform)[0, world.start] * 11**LENGTH
    for problem in range(0, len(world.start), 9):
        offer, target = asked(world, problem)
        count = sum(sum(digits) % 11 == target for digits in itertools.product(offer, repeat=LENGTH))
        assert count > 0 and told[problem] == pytest.approx(count, rel=1e-9)
    assert told.min() < 10 and told.max() > 300


def test_a_digit_that_is_not_on_offer_spoils_all_that_follows(world):
    offer, target = asked(world, 0)
    other = next(d for d in range(11) if d not in offer)
    for where in range(LENGTH):
        node, missing = world.start[0], target
        for t in range(LENGTH):
            token = other if t == where else offer[0]
            if t == LENGTH - 1 and t != where:
                token = missing % 11
            node, missing = world.graph.next[node, token], missing - token
            features = world.graph.obs[world.graph.row[node]]
            assert node < world.graph.finished or features[-2:].tolist() == ([0, 1] if t >= where else [1, 0])
        assert world.graph.reward[node] == 0 and world.graph.answer[node] == EMPTY


def test_what_is_seen_is_the_offer_what_is_missing_and_the_room_left(world):
    offer, target = asked(world, 5)
    state = world.begin(torch.tensor([[5]]))
    state, *_ = world.step(state, torch.tensor([[offer[1]]]), torch.empty(1, 1, 0))
    *shown, missing, room, spoilt = world.observe(state)[0, 0].split(world.features)
    assert [d for d, pair in enumerate(shown) if pair[1]] == offer
    assert missing.argmax() == (target - offer[1]) % 11 and room.argmax() == LENGTH - 1 and spoilt.argmax() == 0


def test_a_response_answers_how_far_it_is_off(world):
    offer, target = asked(world, 7)
    node = world.start[7]
    for digit in (offer[0],) * LENGTH:
        node = world.graph.next[node, digit]
    assert world.graph.answer[node] == (target - LENGTH * offer[0]) % 11


def test_levels_are_sizes_and_as_many_targets_of_each_are_held_out():
    world = worlds.make("tokens.countdown", offers=3, held=4)
    offers = [tuple(asked(world, p)[0]) for p in range(len(world.start))]
    assert [len(o) for o in offers] == world.level.tolist() and set(world.level.tolist()) == set(SIZES)
    for offer in set(offers):
        mine = torch.tensor([o == offer for o in offers])
        assert int(world.held_out[mine].sum()) == 4 and 9 <= int(mine.sum()) <= 11
    assert len(set(offers)) == 3 * len(SIZES)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"offers": 0}, "takes 1 offer or more"), ({"held": 11}, "0 to 10 targets of each out"), ({"offers": 200}, "There are 165")],
)
def test_impossible_countdowns_are_refused_in_a_sentence(options, says):
    with pytest.raises(LabError, match=says):
        worlds.make("tokens.countdown", **options)
