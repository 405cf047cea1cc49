"""v0: how responses are shared out, what is read of a history, what is foretold, what it learnt from, its rivals, and the check."""
import itertools
from dataclasses import replace

import pytest
import torch

from labkit.grpo import foresight
from labkit.grpo import v0 as module
from labkit.grpo.family import group_mean, grpo
from labkit.grpo.foresight import WIDTH, blank, embedded, foretold, histories, recorded, trained
from labkit.grpo.v0 import allotment, by_length, check, compared, context, mixed_chance, refit, v0
from labkit.lanes import Lanes
from labkit.nn import Net
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.world import EMPTY
from tests.methods import small

SMALL = small(v0, prompts=4, group=8)


@pytest.fixture(scope="module")
def world():
    return Chain(levels=(1, 2, 3), problems=8, held=2)


@pytest.fixture(autouse=True)
def learns_little(monkeypatch):
    """A value model that learns for long is not needed here."""
    monkeypatch.setattr(foresight, "STEPS", 40)
    monkeypatch.setattr(foresight, "UPDATES", 12)


def value(n, lanes=1, seed=0):
    """Any value model of n prompts."""
    g = torch.Generator().manual_seed(seed)
    parts = {"query": torch.randn(n, WIDTH, generator=g), "key": torch.randn(n, WIDTH, generator=g), "rest": torch.tensor([0.1, 0.5, -0.4])}
    return {name: x.expand(lanes, *x.shape) for name, x in parts.items()}


def gained(p, n):
    return sum(1 - x**m - (1 - x) ** m for x, m in zip(p, n, strict=True))


def test_no_other_allotment_has_more_mixed_groups_to_be_expected():
    for seed in range(6):
        p = torch.rand(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for budget in (8, 9, 13, 16):
            n = allotment(p, torch.tensor([[budget]]), 8)[0].tolist()
            every = [x for x in itertools.product(range(2, 9), repeat=4) if sum(x) == budget]
            assert tuple(n) in every and gained(p[0].tolist(), n) == pytest.approx(max(gained(p[0].tolist(), x) for x in every), abs=1e-12)


def test_equals_get_equally_many_and_nobody_more_than_there_are_places():
    p = torch.tensor([[0.5] * 4, [0.2] * 4, [0.0, 1.0, 0.0, 1.0]])
    assert allotment(p, torch.tensor([[20], [24], [12]]), 8).tolist() == [[5] * 4, [6] * 4, [3] * 4]
    assert allotment(p[:2], torch.tensor([[32], [99]]), 8).tolist() == [[8] * 4] * 2
    assert allotment(p[:1], torch.tensor([[3]]), 8).tolist() == [[2] * 4] and allotment(p[:1], torch.tensor([[4]]), 1).tolist() == [[1] * 4]


def test_what_is_foretold_does_not_depend_on_the_order_of_the_context():
    problem, seen = torch.arange(6)[None], (torch.arange(20)[None] % 7, torch.rand(1, 20), torch.arange(20.0)[None] // 4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    told = foretold(value(7), problem, seen)
    torch.testing.assert_close(foretold(value(7), problem, tuple(x[:, order] for x in seen)), told, rtol=0, atol=1e-6)
    assert told.unique().numel() == 6
    changed = (seen[0], seen[1].where(seen[2] > 0, 1 - seen[1]), seen[2])
    assert not torch.allclose(foretold(value(7), problem, changed), told)


def test_attention_is_a_softmax_of_products_less_for_age_with_a_prior_beside():
    model, asked, outcome, age = value(5), torch.tensor([[3, 1, 4]]), torch.tensor([[1.0, 0.25, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    score = [float(model["query"][0, 2] @ model["key"][0, j]) - 0.1 * t for j, t in ((3, 0), (1, 1), (4, 2))]
    weight = torch.tensor([0.5, *score]).softmax(0)
    want = weight @ torch.tensor([1 / (1 + torch.tensor(0.4).exp()), 1.0, 0.25, 0.0])
    torch.testing.assert_close(foretold(model, torch.tensor([[2]]), (asked, outcome, age))[0, 0], want)
    unseen = torch.full_like(outcome, EMPTY)
    torch.testing.assert_close(foretold(model, torch.tensor([[2]]), (asked, unseen, age))[0, 0], torch.sigmoid(torch.tensor(-0.4)))


def test_a_history_forgets_its_oldest():
    history = blank(torch.zeros(1, 2, dtype=torch.int64), 5)
    for i in range(3):
        history = recorded(history, torch.tensor([[i, 10 + i]]), torch.tensor([[0.1 * i, 0.5]]))
    assert history["problem"].tolist() == [[2, 12, 1, 11, 0]]
    torch.testing.assert_close(history["outcome"], torch.tensor([[0.2, 0.5, 0.1, 0.5, 0.0]]))


def test_a_context_is_the_last_so_many_as_of_the_last_refreshing(world):
    lanes = Lanes((0,), {"context": (4, 12), "refresh": (1, 3)})
    k, learner, outcomes = lanes.knobs(SMALL.knobs), SMALL.begin(world, lanes, 0.2), []
    for _ in range(5):
        batch = SMALL.gather(world, learner, k)
        SMALL.learn(world, learner, batch, k)
        outcomes.append(group_mean(batch.reward, batch)[..., 0])
    problem, outcome, age = context(SMALL, learner, k)
    told = [[x for x in row if x >= 0] for row in outcome.tolist()]
    for i, updates in enumerate(([4], [2], [4, 3, 2], [2, 1, 0])):  # after 5 updates it was last refreshed after 3
        assert told[i] == torch.cat([outcomes[u][i] for u in updates]).tolist()
    assert age[0, :9].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2] and torch.equal(problem, learner.memory["history"]["problem"])


def test_places_are_filled_as_allotted_and_only_those_are_paid_for(world):
    lanes = Lanes((0, 1), {"share": (0.25, 0.75)})
    k, learner = lanes.knobs(SMALL.knobs), SMALL.begin(world, lanes, 0.2)
    for _ in range(2):
        batch = SMALL.gather(world, learner, k)
        SMALL.learn(world, learner, batch, k)
    n = batch.real.sum(-1)
    assert torch.equal(n, allotment(batch.extra["foretold"], torch.tensor([[8], [8], [24], [24]]), 8))
    assert n.sum(1).tolist() == [8, 8, 24, 24] and n[2:].unique().numel() > 1
    assert learner.memory["rollouts"].tolist() == [16, 16, 48, 48] and (batch.adv[~batch.real] == 0).all()


def test_with_every_place_filled_it_is_grpo(world):
    lanes = Lanes((0, 1), {"share": (1.0,)})
    learners = []
    for method in (SMALL, replace(grpo, shape=SMALL.shape)):
        given = lanes if method is SMALL else Lanes((0, 1))
        k, learner = given.knobs(method.knobs), method.begin(world, given, 0.2)
        for _ in range(2):
            method.learn(world, learner, method.gather(world, learner, k), k)
        learners.append(learner)
    assert torch.equal(*(learner.nets["pi"].theta for learner in learners))


def test_prompts_are_embedded_as_counts_of_signs_and_length(world):
    x = embedded(world)
    for i in (0, len(x) - 1):
        words = world.words(world.prompt[i])
        assert x[i, : len(world.signs)].tolist() == [words.count(sign) for sign in world.signs]
        assert x[i, len(world.signs) :].tolist() == [float(j == len(words)) for j in range(world.prompt.shape[1] + 1)]


def test_the_value_model_learns_to_foretell_the_next_outcomes(monkeypatch):
    """Of prompts of two kinds, the one always right in some runs, and the other in the others."""
    kind = torch.arange(8) % 2
    problem = torch.randint(0, 8, (12, 20, 6), generator=torch.Generator().manual_seed(0))
    outcome = (kind[problem] == (torch.arange(20) % 2)[:, None]).float()
    monkeypatch.setattr(foresight, "STEPS", 300)
    model = trained(torch.eye(2)[kind], problem, outcome)
    seen = (problem[:4].transpose(0, 1).flatten(1), outcome[:4].transpose(0, 1).flatten(1), torch.zeros(20, 24))
    told = foretold({name: x.expand(20, *x.shape) for name, x in model.items()}, problem[5], seen)
    assert (told - outcome[5]).abs().max() < 0.1


def test_donors_are_runs_of_grpo_with_seeds_of_their_own(world):
    problem, outcome = histories(world)
    assert problem.shape == outcome.shape == (12, 20, 16) and problem.max() < 30 and not world.held_out[problem].any()
    assert not torch.equal(problem[:, 0], problem[:, 1]) and max(foresight.DONORS) < 0
    batch = grpo.gather(world, grpo.begin(world, Lanes(tuple(foresight.DONORS)), 0.5), Lanes(tuple(foresight.DONORS)).knobs(grpo.knobs))
    assert torch.equal(problem[0], batch.problem) and torch.equal(outcome[0], batch.reward.mean(-1))


def test_the_critic_fits_and_means_are_those_of_problems_of_the_same_length():
    level, seen = torch.tensor([1, 1, 2, 3]), (torch.tensor([[0, 1, 2]]), torch.tensor([[0.5, 1.0, EMPTY]]), torch.zeros(1, 3))
    assert by_length(level, torch.tensor([[0, 1, 2, 3]]), seen).tolist() == [[0.75, 0.75, 0.5, 0.5]]
    critic = Net(lambda n: Lanes((0, 1)).rand(1, n), (2, 16, 1), head=0.1)
    outcome = torch.tensor([[0.9, 0.2], [0.1, 0.6]])
    for _ in range(3):
        refit(critic, torch.eye(2), torch.tensor([[0, 1], [0, 1]]), outcome)
    torch.testing.assert_close(critic(torch.eye(2).expand(2, -1, -1))[0][..., 0].sigmoid(), outcome, rtol=0, atol=0.03)
    torch.testing.assert_close(mixed_chance(torch.tensor(0.25), torch.tensor(3)), torch.tensor(1 - 0.25**3 - 0.75**3))


def test_all_are_compared_on_the_same_policy(world, monkeypatch):
    monkeypatch.setattr(module, "v0", SMALL)
    own, lagged, means, gain = compared(world, Lanes((0, 1)), 10)
    assert own.shape == (2,) and all(((x > 0) & (x < 0.5)).all() for x in (own, lagged, means)) and (gain.abs() < 1).all()
    filled = replace(SMALL, knobs=SMALL.knobs | {"share": replace(SMALL.knobs["share"], default=1.0)})
    monkeypatch.setattr(module, "v0", filled)
    assert (compared(world, Lanes((0, 1)), 10)[3] == 0).all()


def test_the_check_asks_for_the_least_error_and_for_more_mixed_groups(monkeypatch):
    monkeypatch.setattr(module, "compared", lambda world, lanes, updates: [torch.full((len(lanes),), x) for x in (0.1, 0.3, 0.2, 0.5)])
    verdict = check(range(10), 10)
    assert [round(part.value, 3) for part in verdict.parts] == [-0.2, -0.1, 0.5] and verdict.held == "held"


def test_groups_with_empty_places_are_dead_where_the_others_agree(world):
    lanes = Lanes((0,))
    batch = SMALL.gather(world, SMALL.begin(world, lanes, 0.2), lanes.knobs(SMALL.knobs))
    batch.reward = (~batch.real).float()
    assert batch.dead.all()
