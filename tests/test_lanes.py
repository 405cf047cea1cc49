"""Lanes: knobs, names, and noise that is a pure function of (seed, tick, place)."""
import pytest
import torch
from scipy import stats as scipy_stats

from labkit.errors import LabError
from labkit.lanes import Knob, Lanes

TABLE = {"lr": Knob(1e-3, 1e-4, 1.0, "step size"), "clip": Knob(0.2, 0.0, 1.0, "clip")}
MASK = (1 << 64) - 1


def splitmix(z):
    """The published finaliser, in plain integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed,tick", [(0, 1), (7, 2**32 + 5), (123456789, 99)])
def test_noise_is_splitmix64(seed, tick):
    golden = 0x9E3779B97F4A7C15
    key = splitmix((splitmix((seed * golden + 1) & MASK) + tick * golden) & MASK)
    expected = [(splitmix((key + i * golden) & MASK) >> 40) / 2**24 for i in range(1, 7)]
    assert Lanes((seed,)).rand(tick, 2, 3).flatten().tolist() == expected


def test_splitmix_matches_the_reference_sequence():
    """First outputs of SplittableRandom's generator from seed 0, as published with its C code."""
    golden = 0x9E3779B97F4A7C15
    assert [splitmix((i * golden) & MASK) for i in (1, 2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_settings_of_a_seed_share_noise_and_seeds_do_not():
    u = Lanes((3, 4), {"clip": (0.1, 0.2)}).rand(1, 5)
    assert torch.equal(u[:2], u[2:]) and not torch.equal(u[0], u[1])


def test_a_lane_alone_draws_the_same():
    u = Lanes((0, 5, 9), {"clip": (0.1, 0.2)}).rand(17, 4, 3)
    assert torch.equal(u[5], Lanes((9,)).rand(17, 4, 3)[0])


def test_noise_is_uniform_and_streams_are_unrelated():
    lanes = Lanes(tuple(range(50)))
    u = torch.stack([lanes.rand(t, 400) for t in range(1, 6)]).double()  # (tick, seed, place)
    assert scipy_stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    for axis in range(3):
        a, b = u.narrow(axis, 0, u.shape[axis] - 1).flatten(), u.narrow(axis, 1, u.shape[axis] - 1).flatten()
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 4 / len(a) ** 0.5


def test_knobs_follow_lane_order():
    k = Lanes((0, 1), {"clip": (0.1, 0.3), "lr": (0.01, 0.1)}).knobs(TABLE)
    assert k.clip[:, 0].tolist() == pytest.approx([0.1] * 4 + [0.3] * 4)
    assert k.lr[:, 0].tolist() == pytest.approx([0.01, 0.01, 0.1, 0.1] * 2)
    assert Lanes((0, 1), {"clip": (0.1, 0.8)}).name(3) == "lane 3 (clip=0.8, seed 1)"


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: Lanes(()), "at least one seed"),
        (lambda: Lanes((1, 1)), "each once"),
        (lambda: Lanes((0,), {"clip": ()}), "'clip' takes a list"),
        (lambda: Lanes((0,), {"clop": (0.1,)}).knobs(TABLE), "no knob 'clop'.*lr, clip"),
        (lambda: Lanes((0,), {"clip": (7.0,)}).knobs(TABLE), "clip=7 is out of range.*0 to 1"),
        (lambda: Lanes((0,), {"clip": (float("nan"),)}).knobs(TABLE), "clip=nan is out of range"),
    ],
)
def test_bad_lanes_get_one_sentence(make, words):
    with pytest.raises(LabError, match=words):
        make()
