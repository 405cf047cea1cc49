"""The picture of recovering arms: what it shows is what the world did."""
import pytest
import torch

from labkit.errors import LabError
from labkit.studio import figures

CURVE = torch.tensor([[0.1, 0.5, 0.9], [0.2, 0.4, 0.6]])
IDLE = torch.tensor([[[3, 3], [1, 3], [2, 1], [1, 2]], [[3, 3], [1, 1], [1, 1], [1, 1]]])  # alternating; all arms in every round


def test_the_harvest_is_what_pulled_arms_paid_by_their_rest():
    worth, taken = figures.harvest(CURVE, IDLE)
    torch.testing.assert_close(worth[0], torch.tensor([[0.9, 0.6], [0.1, 0.6], [0.5, 0.2]]))
    torch.testing.assert_close(taken[0], torch.tensor([[0.9, 0.0], [0.0, 0.6], [0.5, 0.0]]))
    torch.testing.assert_close(taken[1], torch.tensor([[0.9, 0.6], [0.1, 0.2], [0.1, 0.2]]))


def test_each_moment_shows_the_bars_the_pulls_and_the_mean_so_far():
    fig = figures.recovering_arms(CURVE, IDLE, ["rhythm", "all"], 1.0)
    assert [frame.name for frame in fig.frames] == ["1", "2", "3"]
    bars, marks, title, cursor = fig.frames[1].data[:4]
    assert list(bars.x) == pytest.approx([0.1, 0.6]) and list(marks.y) == [1] and list(marks.x) == pytest.approx([0.6])
    assert title.text[0] == "<b>rhythm</b>: 0.75 a round so far" and list(cursor.x) == [2, 2]
    assert bars.marker.color[1] != bars.marker.color[0] and list(fig.frames[1].data[5].y) == [0, 1]
    rows = [trace for trace in fig.data if trace.type == "heatmap"]
    assert rows[0].z == pytest.approx(torch.tensor([[0.9, 0.0, 0.5], [0.0, 0.6, 0.0]]).numpy())
    assert (rows[0].xaxis, rows[1].xaxis, bars.xaxis) == ("x2", "x4", "x")
    still = [trace for trace in fig.data[:4] if trace.type == "scatter"]
    assert list(still[0].x) == pytest.approx([0.9, 0.6])


def test_it_says_in_words_what_each_policy_earns():
    text = figures.alt(figures.recovering_arms(CURVE, IDLE, ["rhythm", "all"], 1.0))
    assert "2 arms" in text and "3 rounds" in text and "rhythm: 0.67 a round, 67% of the bound; all: 0.70 a round, 70%" in text


@pytest.mark.parametrize(("curve", "idle", "names", "part"), [
    (CURVE, IDLE, ["one"], "2 policies and 1 names"),
    (CURVE, IDLE - 1, ["a", "b"], "from 1 to D"),
    (CURVE, IDLE + 1, ["a", "b"], "from 1 to D"),
    (CURVE[:1], IDLE, ["a", "b"], r"\(1, 3\)"),
    (CURVE, IDLE[:, :1], ["a", "b"], r"\(2, 1, 2\)"),
])  # fmt: skip
def test_bad_input_gets_one_sentence(curve, idle, names, part):
    with pytest.raises(LabError, match=part) as error:
        figures.recovering_arms(curve, idle, names, 1.0)
    assert str(error.value).endswith(".")
