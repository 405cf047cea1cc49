"""tokens.plan: which two tokens decide, what is seen on the way, and what chance alone is worth."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.plan import ENDS, LENGTH, MIDDLE, PLANS
from labkit.worlds.tokens.world import EMPTY

DECIDE = pytest.mark.parametrize(("middle", "decide"), [(False, ENDS), (True, MIDDLE)])
RESULT = {"+": lambda value, n: (value + n) % 11, "*": lambda value, n: value * n % 11}


def write(world, problem, tokens):
    """The node after these tokens."""
    node = world.start[problem]
    for token in tokens:
        node = world.graph.next[node, token]
    return node


@DECIDE
def test_the_result_alone_is_marked_and_four_tokens_are_free(middle, decide):
    world, rand = worlds.make("tokens.plan", middle=middle), torch.Generator().manual_seed(0)
    for problem in range(0, 66, 7):
        digit, operation, _ = world.words(world.prompt[problem])
        right = RESULT[operation[0]](int(digit), int(operation[1:]))
        for result, free in itertools.product(range(17), range(2)):
            tokens = torch.randint(17, (LENGTH,), generator=rand) if free else world.solution[problem].clone()
            tokens[decide[1]] = result
            node = write(world, problem, tokens)
            assert world.graph.reward[node] == (result == right)
            assert world.graph.answer[node] == (result if result < 11 else EMPTY)


@DECIDE
def test_the_plan_is_seen_from_its_place_to_the_result_and_what_was_asked_before_it(middle, decide):
    world, (plan_at, result_at) = worlds.make("tokens.plan", middle=middle), decide
    state = world.begin(torch.tensor([[3]]))
    digit, operation, _ = world.words(world.prompt[3])
    for t in range(LENGTH):
        value, asked, plan, place = world.observe(state)[0, 0].split(world.features)
        assert value.argmax() == int(digit) and place.argmax() == t
        assert world.signs[17 + int(asked.argmax())] == (operation if t <= plan_at else "=")
        assert plan.argmax() == (PLANS.index("e") if plan_at < t <= result_at else len(PLANS))
        state, *_ = world.step(state, torch.tensor([[world.tokens.index("e") if t == plan_at else 0]]), torch.empty(1, 1, 0))


def test_a_digit_in_place_of_a_plan_is_seen_as_none():
    world = worlds.make("tokens.plan")
    state, *_ = world.step(world.begin(torch.tensor([[0]])), torch.tensor([[5]]), torch.empty(1, 1, 0))
    assert world.observe(state)[0, 0].split(world.features)[2].argmax() == len(PLANS) + 1


@DECIDE
def test_both_worlds_are_equally_hard_for_a_policy_that_guesses_among_digits_and_plans(middle, decide):
    world = worlds.make("tokens.plan", middle=middle)
    uniform = torch.full((1, len(world.graph.obs), 17), 1 / 17, dtype=torch.float64)
    told = truth.success(world.graph, uniform)[0, world.start]
    assert torch.allclose(told, torch.full_like(told, 1 / 17), rtol=1e-12)


def test_problems_are_all_pairs_and_so_many_are_held_out():
    world = worlds.make("tokens.plan", held=10)
    assert len({tuple(p) for p in world.prompt.tolist()}) == 66 and int(world.held_out.sum()) == 10
    for held in (-1, 66):
        with pytest.raises(LabError, match=f"keeps one to train on; got held={held}"):
            worlds.make("tokens.plan", held=held)
