"""tokens.fork: nine right responses to each problem, of three lengths; what is seen at a fork; and how one gets lost."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.fork import FORKING, FORKS, LETTERS, STEPS, done
from labkit.worlds.tokens.world import EMPTY

TIMES = {"+": lambda value, n: (value + n) % 11, "*": lambda value, n: value * n % 11}


def said(operation, value):
    return TIMES[operation[0]](value, int(operation[1:]))


@pytest.fixture(scope="module")
def world():
    return worlds.make("tokens.fork")


def written(world, problem, words):
    node = world.start[problem]
    for word in words:
        node = world.graph.next[node, world.tokens.index(word)]
    return node


def right(prompt, choices):
    """A response that makes these choices, by hand."""
    digit, *operations, _ = prompt
    value, words, choices = int(digit), [], list(choices)
    for operation in operations:
        halves = FORKS.get(operation)
        if halves:
            words.append(choices.pop(0))
            operation = {"a": (operation,), "b": halves, "c": halves[::-1]}[words[-1]]
        for step in operation if halves else (operation,):
            value = said(step, value)
            words.append(str(value))
    return words


def test_each_problem_has_nine_right_responses_of_three_lengths(world):
    for problem in range(0, len(world.start), 7):
        prompt = world.words(world.prompt[problem])
        lengths = []
        for choices in itertools.product(LETTERS, repeat=2):
            words = right(prompt, choices)
            node = written(world, problem, words)
            assert node < world.graph.finished and world.graph.reward[node] == 1 and world.graph.answer[node] == int(words[-1])
            lengths.append(len(words))
        shortest = int(world.level[problem]) + 2
        assert sorted(lengths) == [shortest] + 4 * [shortest + 1] + 4 * [shortest + 2]


def test_a_policy_that_knows_every_step_and_chooses_at_random_is_always_right(world):
    rows = world.graph.obs
    value, step, _ = (part.argmax(1) for part in rows.split(world.features, 1))
    probs = torch.zeros(1, len(rows), len(world.tokens), dtype=torch.float64)
    for row in range(len(rows)):
        if int(step[row]) in FORKING:
            probs[0, row, 11:] = 1 / 3
        else:
            probs[0, row, done(int(step[row]), int(value[row]))] = 1
    told = truth.expected(world.graph, probs, (torch.ones(1, len(rows)),), world.graph.reward)[:, 0, world.start]
    assert torch.allclose(told[1], torch.ones_like(told[1]))
    assert torch.allclose(told[0], world.level.double() + 2 + 4 / 3)  # each fork takes a choice, and two digits in two of three cases


def test_a_wrong_kind_of_token_is_the_end_and_no_answer(world):
    prompt = world.words(world.prompt[0])
    lost = [written(world, 0, ["a"]), written(world, 0, [right(prompt, "aa")[0], "0"])]  # a choice first; a digit at the fork
    for node in lost:
        assert node < world.graph.finished and world.graph.reward[node] == 0 and world.graph.answer[node] == EMPTY


def test_what_is_seen_at_a_fork_is_the_fork_then_what_the_choice_made_of_it(world):
    prompt = world.words(world.prompt[0])
    before = right(prompt, "aa")[:1]
    seen = {}
    for choice in ("", *LETTERS):
        node = written(world, 0, [*before, *choice])
        value, step, left = world.graph.obs[world.graph.row[node]].split(world.features)
        assert value.argmax() == int(before[0])
        seen[choice] = STEPS[int(step.argmax())], int(left.argmax())
    fork, left = prompt[2], len(prompt) - 3
    assert seen == {"": (fork, left), "a": (f"{fork} at once", left), "b": (FORKS[fork][0], left + 1), "c": (FORKS[fork][1], left + 1)}


def test_solutions_go_all_ways_alike():
    world = worlds.make("tokens.fork", levels=(5,), problems=18, held=0)
    chosen = [[w for w in world.words(s) if w in LETTERS] for s in world.solution]
    assert sorted(map(tuple, chosen)) == sorted(2 * list(itertools.product(LETTERS, repeat=2)))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"levels": (3,)}, "from 4 to 6"), ({"levels": ()}, "got \\("), ({"problems": (1, 2)}, "of 3 levels"), ({"problems": 2000}, "1584")],
)
def test_impossible_forks_are_refused_in_a_sentence(options, says):
    with pytest.raises(LabError, match=says):
        worlds.make("tokens.fork", **options)
