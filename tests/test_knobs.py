"""Knobs and options in words."""
import pytest

from labkit.errors import LabError
from labkit.knobs import read_knobs, read_options, write_knobs


def test_knobs_are_read_and_written():
    assert read_knobs("eps=0.1,0.1,.2 lr=1e-3") == {"eps": (0.1, 0.2), "lr": (0.001,)}
    assert write_knobs({"lr": (0.001,), "eps": (0.1, 0.2)}) == "eps=0.1,0.2 lr=0.001"


def test_options_are_numbers_truths_and_words():
    assert read_options("layout_seed=3 view=state random_start=true x=1.5") == {
        "layout_seed": 3, "view": "state", "random_start": True, "x": 1.5
    }  # fmt: skip
    assert read_options("path=a=b") == {"path": "a=b"}


@pytest.mark.parametrize(("read", "text"), [(read_knobs, "eps=a"), (read_knobs, "eps"), (read_options, "view")])
def test_what_cannot_be_read_is_told(read, text):
    with pytest.raises(LabError, match=f"{text!r} cannot be read; write them like "):
        read(text)
