"""Worlds of text: the graph against the rules, the exact sums against enumeration of all responses, and the text that is read."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.divergence import kl
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.chain import DIGITS, MOD, NOTHING, OPERATIONS, STOP, Chain, apply
from labkit.worlds.tokens.world import EMPTY, Problem, spread

TEXT_WORLDS = [name for name in worlds.names() if hasattr(worlds.make(name), "graph")]
each_text = pytest.mark.parametrize("key", TEXT_WORLDS)


@pytest.fixture(scope="module")
def small():
    return Chain((1, 2), problems=(3, 4), held=1)


def policies(world, lanes=3, seed=0):
    """Any policies, (L, R, V) in float64."""
    u = Lanes(tuple(range(seed, seed + lanes))).rand(1, len(world.graph.obs), len(world.tokens))
    return Categorical((4 * u).double())


def responses(world, policy, start):
    """Every response from a node: its probability (L,), its nodes before each token, its end."""
    left = [(policy.probs.new_ones(len(policy.probs)), (), start)]
    while left:
        chance, passed, node = left.pop()
        if node < world.graph.finished:
            yield chance, passed, node
            continue
        for token, after in enumerate(world.graph.next[node].tolist()):
            left.append((chance * policy.probs[:, world.graph.row[node], token], (*passed, node), after))


# the graph


@each_text
def test_every_token_leads_lower_and_every_response_ends_within_the_horizon(key):
    world = worlds.make(key)
    graph, height = world.graph, torch.empty(len(world.graph.row), dtype=torch.int64)
    for h, (first, beyond) in enumerate(graph.layers):
        height[first:beyond] = h
    open_nodes = torch.arange(graph.finished, len(height))
    assert (height[graph.next[open_nodes]].amax(1) == height[open_nodes] - 1).all()
    assert (graph.next[: graph.finished] == torch.arange(graph.finished)[:, None]).all()
    assert height.max() == world.solution.shape[1] == len(graph.layers) - 1
    assert not graph.reward[open_nodes].any() and (graph.answer[open_nodes] == EMPTY).all() and set(graph.reward.tolist()) <= {0.0, 1.0}


@each_text
def test_solutions_are_right_and_no_problem_for_training_is_held_out_too(key):
    world = worlds.make(key)
    state = world.begin(torch.arange(len(world.start))[None])
    total = torch.zeros(1, len(world.start))
    for token in world.solution.T:
        state, reward, *_ = world.step(state, token.clamp_min(0)[None], torch.empty(1, len(world.start), 0))
        total += reward
    assert torch.equal(total[0] == 1, (world.solution != EMPTY).any(1))
    asked = [tuple(p) for p in world.prompt[world.pool].tolist()]
    assert not set(asked) & {tuple(p) for p in world.prompt[world.held_out].tolist()}
    assert sorted(world.pool.tolist()) == (~world.held_out).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("stop", [False, True])
def test_a_chain_is_marked_by_its_last_value_alone(stop):
    world = Chain((1, 2, 3), problems=5, held=0, stop=stop, room=5)
    for i, start in enumerate(world.start.tolist()):
        digit, *operations, _ = world.words(world.prompt[i])
        value = int(digit)
        for operation in operations:
            value = eval_operation(operation, value)
        assert int(world.level[i]) == len(operations)
        one_hot = policies(world, 1)
        for _, passed, node in itertools.islice(responses(world, one_hot, start), 0, 2000, 7):
            written = [int(world.graph.next[a].tolist().index(b)) for a, b in itertools.pairwise((*passed, node))]
            said = [world.tokens[t] for t in written]
            answer = ([DIGITS[value_of(digit, said[:-1])]] if said[-1] == STOP else [None]) if stop else said[-1:]
            assert world.graph.reward[node] == (answer == [DIGITS[value]]), (operations, said)


def value_of(digit, said):
    return int(said[-1] if said else digit)


def eval_operation(operation, value):
    return {"+": value + int(operation[1:]), "*": value * int(operation[1:])}[operation[0]] % 11


def test_every_operation_is_a_permutation_and_guessing_is_right_once_in_eleven(small):
    assert all(sorted(apply(o, v) for v in range(MOD)) == list(range(MOD)) for o in range(NOTHING))
    uniform = torch.full((1, len(small.graph.obs), MOD), 1 / MOD, dtype=torch.float64)
    told = truth.success(small.graph, uniform)[0, small.start]
    assert torch.allclose(told, torch.full_like(told, 1 / 11), rtol=1e-12)


def test_what_is_seen_is_the_last_digit_the_next_operation_and_how_many_are_left(small):
    state = small.begin(torch.tensor([[5]]))  # a problem of level 2
    digit, first, second, _ = small.words(small.prompt[5])
    seen = small.observe(state)[0, 0]
    assert seen.nonzero()[:, 0].tolist() == [int(digit), MOD + OPERATIONS.index(first), MOD + NOTHING + 1 + 2]
    state, *_ = small.step(state, torch.tensor([[9]]), torch.empty(1, 1, 0))
    assert small.observe(state)[0, 0].nonzero()[:, 0].tolist() == [9, MOD + OPERATIONS.index(second), MOD + NOTHING + 1 + 1]


def test_what_is_read_as_text_is_the_prompt_and_what_was_written():
    world = Chain((1, 3), problems=2, held=0, text=True)
    state = world.begin(torch.tensor([[0, 3]]))
    state, *_ = world.step(state, torch.tensor([[4, 7]]), torch.empty(1, 2, 0))
    short, long = world.observe(state)[0].long()
    assert short.tolist() == [*world.prompt[0].tolist(), 4, EMPTY, EMPTY] and long.tolist() == [*world.prompt[3].tolist(), 7, EMPTY, EMPTY]
    assert world.prompt[0].tolist()[2:4] == [EMPTY, EMPTY] and world.signs[world.prompt[0, -1]] == "="
    assert world.obs_size == 5 + 3 and world.words(short) == [*world.words(world.prompt[0]), "4"]


# the exact sums


def test_sums_are_those_over_all_responses(small):
    policy, other = policies(small), policies(small, seed=9)
    gains = (torch.ones(1, len(small.graph.obs)), policy.entropy(), kl(policy, other))
    told = truth.expected(small.graph, policy.probs, gains, small.graph.reward)[:, :, small.start]
    for i, start in enumerate(small.start.tolist()):
        total = torch.zeros(4, 3, dtype=torch.float64)
        for chance, passed, node in responses(small, policy, start):
            rows = small.graph.row[list(passed)]
            parts = [chance * len(passed), *(chance * g[:, rows].sum(1) for g in gains[1:]), chance * small.graph.reward[node]]
            total += torch.stack(parts)
        assert torch.allclose(told[:, :, i], total, rtol=1e-12)


def test_the_sum_of_token_divergences_is_the_divergence_of_responses(small):
    """Chain rule: E[sum of log-ratios] over whole responses is what `expected` adds up token by token."""
    policy, other = policies(small), policies(small, seed=9)
    told = truth.expected(small.graph, policy.probs, [kl(policy, other)])[0, :, small.start]
    for i, start in enumerate(small.start.tolist()):
        pairs = zip(responses(small, policy, start), responses(small, other, start), strict=True)
        whole = sum(p * (p.log() - q.log()) for (p, *_), (q, *_) in pairs)
        assert torch.allclose(told[:, i], whole, rtol=1e-10)


def test_arrivals_are_the_chances_of_all_responses_and_visits_their_rows(small):
    policy, starts = policies(small), small.start[small.pool]
    nodes = torch.zeros(3, len(small.graph.row), dtype=torch.float64)
    for start in starts.tolist():
        for chance, passed, node in responses(small, policy, start):
            for stop in (*passed, node):
                nodes[:, stop] += chance / len(starts)
    told = truth.arrivals(small.graph, policy.probs, starts)
    assert torch.allclose(told, nodes, rtol=1e-12)
    seen = truth.visits(small.graph, policy.probs, starts)
    length = truth.expected(small.graph, policy.probs, [torch.ones(1, len(small.graph.obs))])[0][:, starts].mean(1)
    assert torch.allclose(seen.sum(1), length) and torch.allclose((told * small.graph.reward).sum(1), success_of(small, policy))


def success_of(world, policy):
    return truth.success(world.graph, policy.probs)[:, world.start[world.pool]].mean(1)


@each_text
def test_a_lane_alone_has_the_sums_that_it_has_beside_others(key):
    world = worlds.make(key)
    policy = policies(world, 3)
    told, alone = (truth.expected(world.graph, p, [policy.entropy()[i]], world.graph.reward) for i, p in
                   ((slice(None), policy.probs), (slice(1, 2), policy.probs[1:2])))  # fmt: skip
    assert torch.equal(told[:, 1:2], alone)
    passed, own = (truth.visits(world.graph, p, world.start) for p in (policy.probs, policy.probs[1:2]))
    assert torch.equal(passed[1:2], own)


def test_pass_at_k_is_the_chance_of_one_right_response_in_k():
    p = torch.tensor([0.0, 1e-9, 0.25, 1.0], dtype=torch.float64)
    assert torch.allclose(truth.pass_at(p, 1), p, rtol=1e-12) and truth.pass_at(p, 3)[2] == pytest.approx(1 - 0.75**3, rel=1e-12)
    assert truth.pass_at(p, 1000)[1] == pytest.approx(1e-6, rel=1e-5) and truth.pass_at(p, 5)[3] == 1


# bad input


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"levels": ()}, "Levels of tokens.chain go from 1 to 6"), ({"levels": (0,)}, "from 1 to 6"), ({"levels": (7,)}, "got \\(7,\\)"),
        ({"levels": (1,), "problems": 100}, "There are 66 different problems"), ({"levels": (1, 2), "problems": (3,)}, "each of 2 levels"),
        ({"stop": True, "room": 6}, "7 tokens or more; got room=6"), ({"problems": 0}, "has no problem to train on; hold fewer out"),
        ({"operations": ("-1",)}, "Operations of tokens.chain are some of"), ({"operations": ()}, "got \\(\\)"),
    ],
)  # fmt: skip
def test_impossible_chains_are_refused_in_a_sentence(options, says):
    with pytest.raises(LabError, match=says):
        worlds.make("tokens.chain", **options)


def test_a_wrong_solution_and_an_unknown_sign_are_named():
    class Wrong(Chain):
        def _problem(self, number, level, held_out):
            right = super()._problem(number, level, held_out)
            return Problem(right.prompt, level, (*right.solution[:-1], DIGITS[(DIGITS.index(right.solution[-1]) + 1) % MOD]), right.start)

    with pytest.raises(LabError, match=r"tokens.chain: '\d+' does not solve '\d+ .\d ='; mend that problem's solution."):
        Wrong((1,), problems=2, held=0)

    class Odd(Chain):
        def _problem(self, number, level, held_out):
            right = super()._problem(number, level, held_out)
            return Problem(("?", *right.prompt), level, right.solution, right.start)

    with pytest.raises(LabError, match=r"tokens.chain has no sign '\?'; it has 0 1"):
        Odd((1,), problems=2, held=0)


def test_numbers_are_spread_without_repetition():
    drawn = spread(50, 30, 3)
    assert len(set(drawn)) == 30 and set(drawn) <= set(range(50)) and drawn == spread(50, 30, 3) != spread(50, 30, 4)
    with pytest.raises(LabError, match="There are 5 different problems of this kind; ask for at most as many, not 6"):
        spread(5, 6, 0)
