"""control.repurchase: the contract by hand, and its exact values against every path played in the world itself."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.worlds.repurchase import Repurchase

SMALL = Repurchase(dates=3, shares=2, move=0.1, pen=2.0)


def played(world, buys, rises):
    """Rewards, ends and observations of one path, buying or waiting as told, (T,) each and (T, 4)."""
    state, rows = world.reset(torch.zeros(1, 1, 0)), []
    for buy, rise in zip(buys, rises, strict=True):
        seen = world.observe(state)[0, 0]
        state, reward, ended, _ = world.step(state, torch.tensor([[buy]]), torch.tensor([[[0.0 if rise else 0.9]]]))
        rows.append((reward.item(), ended.item(), seen))
    return rows


def test_the_contract_by_hand():
    """Buys at 1 and at 1.1; prices 1.1 and 0.99 are averaged, for the contract ends with the second share."""
    (first, not_yet, _), (paid, ended, seen), *_ = played(SMALL, (1, 1, 0), (True, False, True))
    assert first == 0 and not not_yet and ended
    assert paid == pytest.approx(2 * (1.1 + 0.99) / 2 - (1 + 1.1), abs=1e-6)
    assert seen.tolist() == pytest.approx([1 / 3, 1.1, 1.1, 0.5])


def test_what_is_missing_in_the_end_costs():
    *_, (paid, ended, _) = played(SMALL, (0, 1, 0), (True, True, True))
    assert ended and paid == pytest.approx(2 * (1.1 + 1.21 + 1.331) / 3 - 1.1 - 2.0, abs=1e-6)


def by_playing(world, chance):
    """The expected payoff of buying with chance(seen), over all paths and all tosses, each played in the world."""
    total = 0.0
    for rises in itertools.product((True, False), repeat=world.dates):
        for buys in itertools.product((0, 1), repeat=world.dates):
            weight = 0.5**world.dates
            for t, (buy, (reward, ended, seen)) in enumerate(zip(buys, played(world, buys, rises), strict=True), 1):
                weight *= chance(seen) if buy else 1 - chance(seen)
                if ended:
                    total += weight * reward * 0.5 ** (world.dates - t)  # what is tossed after the end is listed both ways
                    break
    return total


def late_and_low(seen):
    """A chance of buying that depends on all that is seen."""
    return (0.2 + 0.3 * seen[0] + 0.2 * seen[3] + 0.3 * (seen[1] <= seen[2])).clamp(0, 1).item()


def test_the_value_of_a_randomised_policy_is_that_of_playing_it():
    buy = torch.tensor([[late_and_low(seen) for seen in SMALL.nodes()]], dtype=torch.float64)
    assert SMALL.value(buy).item() == pytest.approx(by_playing(SMALL, late_and_low), abs=1e-6)


def test_the_optimum_is_the_best_of_all_deterministic_policies():
    tiny = Repurchase(dates=2, shares=2)
    value, where = tiny.optimum()
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=len(tiny.nodes()))), dtype=torch.float64)
    assert value == pytest.approx(tiny.value(every).max().item(), abs=1e-12)
    assert tiny.value(where[None].double()).item() == pytest.approx(value, abs=1e-12)
    full = worlds.make("control.repurchase")
    best, buys = full.optimum()
    assert full.value(buys[None].double()).item() == pytest.approx(best, abs=1e-12) and best > 0.1


def test_a_martingale_bought_at_once_is_worth_nothing():
    world = worlds.make("control.repurchase")
    assert abs(world.value(torch.ones(1, len(world.nodes()), dtype=torch.float64)).item()) < 1e-12


def test_without_a_penalty_nobody_buys_dearly():
    free, dear = (Repurchase(dates=4, shares=2, pen=pen).optimum()[0] for pen in (0.0, 5.0))
    assert free == pytest.approx(2.0) and dear < 0.2


@pytest.mark.parametrize("options", [{"dates": 0}, {"dates": 15}, {"shares": 13}, {"move": 0.9}, {"pen": -1}])
def test_a_contract_that_makes_no_sense_is_refused(options):
    with pytest.raises(LabError, match=next(iter(options))):
        worlds.make("control.repurchase", **options)
