"""Chains with a guess: what each way of answering is worth, what is seen, what ends a response, and what goes wrong."""
import pytest
import torch

from labkit.errors import LabError
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.chain import MOD, NOTHING, OPERATIONS, Chain, apply
from labkit.worlds.tokens.modes import CHOOSING, DIRECT, GUESSING, STEPPING, STEPS, Modes
from labkit.worlds.tokens.world import EMPTY


@pytest.fixture(scope="module")
def world():
    return Modes(problems=22, held=11)


def seen(world, row):
    """What is seen there: one number for each feature."""
    return [x.argmax().item() for x in world.graph.obs[row].split(world.features)]


def habit(world, first):
    """The policy that begins with `first`, then takes the guess or writes the right values: (1, R, V)."""
    probs = torch.zeros(1, len(world.graph.obs), len(world.tokens), dtype=torch.float64)
    for row in range(probs.shape[1]):
        mode, value, operation, _ = seen(world, row)
        probs[0, row, {CHOOSING: first, GUESSING: value}.get(mode, apply(operation % NOTHING, value))] = 1
    return probs


def length(world, probs):
    """Tokens of a response from each problem, (N,)."""
    return truth.expected(world.graph, probs, (torch.ones(1, probs.shape[1]),))[0, 0, world.start]


def test_a_guess_is_right_for_one_operation_and_as_good_as_a_die_for_six(world):
    assert [round(Modes.accuracy(level) * MOD, 9) for level in range(1, 7)] == [11, 9, 7, 5, 3, 1]
    probs = habit(world, DIRECT)
    taken = truth.success(world.graph, probs)[0, world.start]
    for level in range(1, 7):
        for held, n in ((False, 22), (True, 11)):
            of = taken[(world.level == level) & (world.held_out == held)]
            assert len(of) == n and of.sum() == round(n * Modes.accuracy(level))
    assert (length(world, probs) == 2).all()


def test_steps_are_right_where_each_is_and_take_a_token_each(world):
    probs = habit(world, STEPS)
    assert (truth.success(world.graph, probs)[0, world.start] == 1).all()
    assert torch.equal(length(world, probs), 1.0 + world.level.double())


def test_a_policy_sees_how_long_the_chain_is_then_the_guess_or_the_next_step(world):
    for i in (0, 100, 197):
        (digit, *operations, guess, equals), start = world.words(world.prompt[i]), world.start[i]
        level, first = len(operations), OPERATIONS.index(operations[0])
        looks = [seen(world, world.graph.row[node]) for node in (start, *world.graph.next[start, [DIRECT, STEPS]])]
        assert looks[0] == [CHOOSING, MOD, NOTHING, level] and looks[1] == [GUESSING, int(guess[:-1]), NOTHING, level]
        assert looks[2] == [STEPPING, int(digit), first, level] and equals == "=" and level == world.level[i]


def test_what_belongs_elsewhere_ends_the_response_without_an_answer(world):
    graph, start = world.graph, world.start[-1]
    for node, tokens in ((start, range(MOD)), *((graph.next[start, first], (STEPS, DIRECT)) for first in (STEPS, DIRECT))):
        ends = graph.next[node, list(tokens)]
        assert (ends < graph.finished).all() and (graph.answer[ends] == EMPTY).all() and (graph.reward[ends] == 0).all()
    told = graph.next[graph.next[start, DIRECT], :MOD]
    assert (told < graph.finished).all() and graph.answer[told].tolist() == list(range(MOD)) and graph.reward[told].sum() == 1


def test_a_share_of_the_solutions_goes_in_steps_at_every_level():
    for share in (0.0, 0.5, 1.0):
        world = Modes(problems=10, held=0, steps=share)
        stepped = world.solution[:, 0] == STEPS
        assert [int(stepped[world.level == level].sum()) for level in range(1, 7)] == [round(10 * share)] * 6
        assert ((world.solution != EMPTY).sum(1) == torch.where(stepped, 1 + world.level, 2)).all()


def test_its_chains_are_those_of_tokens_chain(world):
    chain = Chain(problems=22, held=11)
    asked = [[w for w in world.words(p) if "?" not in w] for p in world.prompt]
    assert asked == [chain.words(p) for p in chain.prompt]
    results = {(tuple(p), s[-1]) for p, s in zip(asked, (chain.words(s) for s in chain.solution), strict=True)}
    assert {(tuple(p), s[-1]) for p, s in zip(asked, (world.words(s) for s in world.solution), strict=True)} == results


@pytest.mark.parametrize(
    ("options", "message"),
    [({"levels": ()}, "Levels of tokens.modes go from 1 to 6"), ({"levels": (7,)}, r"got \(7,\)"), ({"steps": 1.5}, "steps=1.5"),
     ({"problems": (3,)}, "6 levels"), ({"levels": (1,), "problems": 67}, "66 different problems")],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(options, message):
    with pytest.raises(LabError, match=message) as error:
        Modes(**options)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
