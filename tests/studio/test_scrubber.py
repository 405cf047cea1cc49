"""What the Scrubber sends to the browser is the record, within the stated rounding; it refuses what is not there."""
import base64
import json
import math
import re

import numpy as np
import pytest
import torch

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.record import Record
from labkit.studio import figures
from labkit.studio.figures import curves
from labkit.studio.scrubber import Scrubber

P, N, T, S = 4, 3, 5, 4
FLOOR = figures.Floor(
    3, 1, torch.tensor([0, 0, 2, 2]),
    torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, -1.0]]]),
    {"wall": torch.tensor([[1, 0]])},
)  # fmt: skip


@pytest.fixture
def record():
    """Two knobs with two values each, three seeds, five moments; random policies and occupancies on two cells."""
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(T, P * N, *shape, generator=draw)  # noqa: E731
    policy, where = rand(S, 2), rand(S)
    fields = {"policy": policy / policy.sum(-1, keepdim=True), "occupancy": where / where.sum(-1, keepdim=True)}
    returns = rand()
    returns[0, 0] = math.nan
    lanes = Lanes((0, 7, 9), {"lr": (0.1, 0.2), "eps": (1.0, 2.0)})
    return Record("ppo", "grid.two", lanes, torch.arange(T) * 100, {"return": returns, "kl from start": rand()}, fields)


def test_curves_decode_to_summary_and_seeds(record):
    packed = np.frombuffer(Scrubber(record, FLOOR).curves, "<f4")
    middle, seeds = packed[: 2 * P * 3 * T].reshape(2, P, 3, T), packed[2 * P * 3 * T :].reshape(2, P, N, T)
    for k, name in enumerate(("return", "kl from start")):
        for p in range(P):
            np.testing.assert_array_equal(middle[k, p], np.stack(curves.summary(record, name, p)))
            np.testing.assert_array_equal(seeds[k, p], record.curves[name][:, p * N : (p + 1) * N].T)
    assert np.isnan(middle[0, 0, :, 0]).all() and np.isfinite(middle[0, 1]).all()


def test_arrows_decode_to_flux_and_heat_within_a_level(record):
    widget = Scrubber(record, FLOOR)
    packed = np.frombuffer(widget.arrows, np.uint8).reshape(P, N + 1, T, 2, 3) / [255, 256, 255]
    for p in range(P):
        lanes = record.setting(p)
        arrows, heat = figures.flux(record.fields["policy"][:, lanes], record.fields["occupancy"][:, lanes], FLOOR)
        root = (heat[..., [0, 2]] / widget.about["most"]).sqrt().transpose(0, 1)
        assert np.abs(packed[p, 1:, ..., 0] - root.numpy()).max() <= 0.51 / 255
        mean = (heat[..., [0, 2]].mean(1) / widget.about["most"]).sqrt()
        assert np.abs(packed[p, 0, ..., 0] - mean.numpy()).max() <= 0.51 / 255
        turn, length = packed[p, 1:, ..., 1] * 2 * np.pi, packed[p, 1:, ..., 2]
        drawn = np.stack([length * np.cos(turn), length * np.sin(turn)], -1)
        assert np.abs(drawn - arrows[..., [0, 2], :].transpose(0, 1).numpy()).max() < np.pi / 256 + 1 / 255


def test_about_names_everything(record):
    about = Scrubber(record, FLOOR).about
    assert about["names"] == ["lr=0.1, eps=1", "lr=0.1, eps=2", "lr=0.2, eps=1", "lr=0.2, eps=2"]
    assert about["knobs"] == [{"name": "lr", "values": [0.1, 0.2]}, {"name": "eps", "values": [1.0, 2.0]}]
    assert about["steps"] == [0, 100, 200, 300, 400] and about["seeds"] == [0, 7, 9] and not about["band"]
    assert about["curves"] == ["return", "kl from start (nats)"]
    assert about["floor"] == {"width": 3, "height": 1, "cells": [0, 2], "things": {"wall": [1]}}


def test_long_records_are_thinned_evenly_with_both_ends(record):
    assert Scrubber(record, FLOOR, most=3).steps == [0, 200, 400]


def test_it_starts_at_the_end_with_all_seeds_and_can_be_driven(record):
    widget = Scrubber(record, FLOOR, setting=1)
    assert (widget.setting, widget.time, widget.seed) == (1, 4, -1)
    widget.setting, widget.time, widget.seed = 3, 0, 2
    assert {"setting", "time", "seed", "curves", "arrows", "about"} <= set(widget.keys)  # synced
    for name, value, top in (("setting", 4, 3), ("time", 5, 4), ("seed", -2, 2)):
        with pytest.raises(LabError, match=f"{name} {value} is not in this record; it goes from .* to {top}"):
            setattr(widget, name, value)
    assert (widget.setting, widget.time, widget.seed) == (3, 0, 2)


def test_without_a_floor_it_holds_curves_only(record):
    widget = Scrubber(record, curves=("kl from start",))
    assert widget.about["floor"] is None and widget.arrows == b"" and len(widget.curves) == 4 * P * (3 + N) * T
    assert "kl from start" in figures.alt(widget.figure())


def test_the_page_holds_all_data_and_fetches_nothing(record):
    widget = Scrubber(record, FLOOR, setting=2)
    page = widget.to_html()
    data = json.loads(re.search(r"^const plain = (.*);$", page, re.M)[1])
    assert base64.b64decode(data["curves"]) == widget.curves and base64.b64decode(data["arrows"]) == widget.arrows
    assert (data["setting"], data["time"], data["seed"], data["about"]) == (2, 4, -1, widget.about)
    assert not re.search(r"https?://|\bimport\b|\bexport\b|<link|src=", page) and page == widget.to_html()


def test_names_cannot_break_out_of_the_page(record):
    record.curves["</script><b>"] = record.curves["return"]
    assert Scrubber(record, curves=("</script><b>",)).to_html().count("</script>") == 1


def test_beside_the_widget_goes_a_small_figure_and_its_words(record):
    bundle, _ = Scrubber(record, FLOOR, setting=1)._repr_mimebundle_()
    still = bundle["application/vnd.plotly.v1+json"]
    assert "application/vnd.jupyter.widget-view+json" in bundle and len(json.dumps(still)) < 60_000
    assert bundle["text/plain"] == still["layout"]["meta"]["alt"] and "lr=0.1, eps=2" in bundle["text/plain"]
