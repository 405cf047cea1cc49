"""Recordings give back what was recorded, within the error they state; damaged, foreign and stale ones are told in a sentence."""
import hashlib
import json
import lzma
from dataclasses import replace

import pytest
import torch

from labkit import cli
from labkit.course import build, recordings
from labkit.course.recordings import Recording
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.on_policy.family import ppo
from labkit.record import Record
from labkit.studio import figures
from labkit.studio.scrubber import Scrubber

RECIPES = '''"""Recordings of chapter 07."""
import torch

from labkit.lanes import Lanes
from labkit.on_policy.family import ppo
from labkit.record import Record
from labkit.course.recordings import Recording


def helper(x):
    from labkit.halving import half

    return half(x)


def small() -> Recording:
    """Two lanes."""
    return Recording(Record("ppo", "here", Lanes((3, 5)), torch.tensor([1, 2]), {"return": torch.eye(2)}), ppo, {"size": 4})


def with_knob(x) -> Recording:
    return small()


def plain() -> Record:
    return small().record
'''


@pytest.fixture
def clone(tmp_path, monkeypatch):
    folder = tmp_path / "course" / "recordings"
    folder.mkdir(parents=True)
    (folder / "07.py").write_text(RECIPES)
    (tmp_path / "labkit").mkdir()
    (tmp_path / "labkit" / "halving.py").write_text("def half(x):\n    return x / 2\n")
    monkeypatch.setattr(recordings, "FOLDER", folder)
    return tmp_path


def rich(points=2, moments=6, states=9):
    """Curves with gaps and large offsets, policies and occupancies."""
    generator = torch.Generator().manual_seed(0)
    lanes = Lanes(range(10), {"eps": tuple((k + 1) / 10 for k in range(points))})
    returns = 1e6 + torch.randn(moments, len(lanes), generator=generator, dtype=torch.float64)
    returns[0, 3:] = torch.nan
    policy = (4 * torch.randn(moments, len(lanes), states, 4, generator=generator)).softmax(-1)
    where = torch.randn(moments, len(lanes), states, generator=generator).exp()
    drift, heat = (torch.rand(moments, len(lanes), *more, generator=generator) for more in ((), (3,)))
    curves = {"return": returns, "kl from start": drift, "flat": torch.full((moments, len(lanes)), 2.5)}
    fields = {"policy": policy, "occupancy": where / where.sum(-1, keepdim=True), "heat": heat}
    return Record("ppo", "finite.chain", lanes, 2**40 + 512 * torch.arange(moments), curves, fields, ("lane 3 (seed 3) stopped",))


def off(a, b):
    return (a.double() - b.double()).abs().nan_to_num(0.0).max().item()


def test_a_recording_gives_the_record_back_within_the_stated_error(clone):
    record = rich()
    assert recordings.save("07/small", Recording(record, ppo, {}), 1.0).stat().st_size < recordings.LARGEST
    back, told = recordings.load("07/small"), recordings.about("07/small")["tensors"]
    assert torch.equal(back.steps, record.steps) and back.lanes == record.lanes
    assert (back.algorithm, back.world, back.notes) == (record.algorithm, record.world, record.notes)
    for kind in ("curves", "fields"):
        assert getattr(back, kind).keys() == getattr(record, kind).keys()
        for name, values in getattr(record, kind).items():
            got, scale = getattr(back, kind)[name], told[f"{kind}/{name}"]
            known = values[values.isfinite()]
            assert torch.equal(got.isnan(), values.isnan())
            assert off(got, values) <= scale["error"] <= 5 * (known.max() - known.min()) / 65534 + 1e-7 * known.abs().max()
    assert torch.equal(back.curves["flat"], record.curves["flat"])


def test_what_was_a_probability_is_one(clone):
    recordings.save("07/small", Recording(rich(), ppo, {}), 1.0)
    fields = recordings.load("07/small").fields
    for name in ("policy", "occupancy"):
        torch.testing.assert_close(fields[name].sum(-1), torch.ones_like(fields[name].sum(-1)))
    assert bool((fields["policy"] > 0).all()) and not bool((fields["heat"].sum(-1) == 1).any())


def test_fields_take_8_bits_where_16_are_too_many(clone):
    record = rich(points=2, moments=20, states=60)
    assert recordings.save("07/small", Recording(record, ppo, {}), 1.0).stat().st_size <= recordings.LARGEST
    back, told = recordings.load("07/small"), recordings.about("07/small")["tensors"]
    assert 1e-4 < off(back.fields["policy"], record.fields["policy"]) <= told["fields/policy"]["error"] < 0.01
    assert off(back.curves["kl from start"], record.curves["kl from start"]) < 1e-5
    with pytest.raises(LabError, match=r"Recording 07/small takes [\d,]+ bytes, more than 200,000; keep fewer"):
        recordings.save("07/small", Recording(rich(points=5, moments=40, states=100), ppo, {}), 1.0)
    assert torch.equal(recordings.load("07/small").steps, record.steps)  # the old one is still there


def test_figures_take_it(clone):
    recordings.save("07/small", Recording(rich(), ppo, {}), 1.0)
    back = recordings.load("07/small")
    for make in (figures.learning_curve, figures.frontier, figures.policy_map):
        assert len(make(back).data) > 1
    assert Scrubber(back, curves=("kl from start",)).steps == rich().steps.tolist()


def test_provenance(clone):
    path = recordings.build("07/small")
    assert path == clone / "course" / "recordings" / "07" / "small.rec" and list(path.parent.iterdir()) == [path]
    told = recordings.about("07/small")
    assert (told["name"], told["algorithm"], told["world"], told["options"]) == ("07/small", "ppo", "here", {"size": 4})
    assert told["shape"]["envs"] == ppo.shape.envs and told["knobs"]["eps"] == ppo.knobs["eps"].default
    assert told["seeds"] == [3, 5] and told["grid"] == {} and told["versions"].keys() >= {"labkit", "torch", "python"}
    assert told["machine"] and told["seconds"] >= 0 and told["time"].endswith("+00:00") and len(told["code"]) == 16
    same = recordings.train("07/small").record
    assert torch.equal(same.curves["return"], recordings.load("07/small").curves["return"])


def test_recipes_are_found_in_the_text(clone):
    assert recordings.names() == ["07/small"]
    for unknown in ("07/helper", "07/with_knob", "07/plain", "../../etc/passwd", "08/small"):
        with pytest.raises(LabError, match=r"no recipe for the recording .*; there are 07/small"):
            recordings.load(unknown)


def test_a_recording_goes_stale_with_its_code(clone):
    assert "has not been built; `labkit build --recordings 07/small`" in recordings.stale("07/small")
    recordings.build("07/small")
    assert recordings.stale("07/small") is None and recordings.faults() == []
    for path, old, new in (("labkit/halving.py", "x / 2", "x / 3"), ("course/recordings/07.py", '"size": 4', '"size": 5')):
        text = (clone / path).read_text()
        (clone / path).write_text(text.replace("return", "# a remark\n    return", 1))
        assert recordings.stale("07/small") is None  # words change nothing
        (clone / path).write_text(text.replace(old, new))
        assert "is older than the code that it rests on" in recordings.stale("07/small")
        (clone / path).write_text(text)
    (clone / "course" / "recordings" / "07" / "gone.rec").write_bytes(b"")
    assert recordings.faults() == ["No recipe makes 07/gone.rec in course/recordings; remove it."]


def test_damage_anywhere_is_told(clone):
    path = recordings.build("07/small")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(LabError, match=r"^Recording 07/small (is damaged|was not written by labkit|has version).*[.]$"):
            recordings.load("07/small")
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(LabError, match=r"^Recording 07/small (is damaged|was not written by labkit);"):
            recordings.load("07/small")
    path.write_bytes(whole + b"x")
    assert "is damaged; `labkit build --recordings 07/small` makes it anew." in recordings.stale("07/small")


def sealed(packed: bytes, version: int = 1) -> bytes:
    return b"driftlab recording %d\n%s\n%s" % (version, hashlib.sha256(packed).hexdigest().encode(), packed)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "was not written by labkit"),
        (b"\x80\x04K\x01.", "was not written by labkit"),
        (sealed(b"no xz"), "was not written by labkit"),
        (sealed(lzma.compress(b"{}\nnothing")), "was not written by labkit"),
        (sealed(lzma.compress(b"[\n")), "was not written by labkit"),
        (sealed(lzma.compress(bytes(1 << 27))), "was not written by labkit"),  # a bomb of 128 MiB
        (sealed(b"", version=2), "has version 2, this labkit reads 1; use a newer labkit."),
        (bytes(200_001), "has 200,001 bytes, more than 200,000"),
    ],
)
def test_foreign_newer_and_too_large_files_are_told(clone, content, says):
    path = recordings.build("07/small")
    path.write_bytes(content)
    with pytest.raises(LabError, match=says):
        recordings.load("07/small")
    assert says.split(";")[0] in recordings.faults()[0]


def test_a_sealed_file_with_other_content_is_told(clone):
    path = recordings.build("07/small")
    told = recordings.about("07/small")
    plain = lzma.decompress(path.read_bytes().split(b"\n", 2)[2]).split(b"\n", 1)[1]
    for without in ("seeds", "tensors", "algorithm"):
        path.write_bytes(sealed(lzma.compress(json.dumps({k: v for k, v in told.items() if k != without}).encode() + b"\n" + plain)))
        with pytest.raises(LabError, match="was not written by labkit"):
            recordings.load("07/small")


def test_infinite_values_and_full_disks_are_told(clone, monkeypatch):
    made = recordings.train("07/small")
    endless = replace(made, record=replace(made.record, curves={"return": torch.tensor([[1.0, torch.inf]])}))
    with pytest.raises(LabError, match="'return' has an infinite value"):
        recordings.save("07/small", endless, 1.0)

    def refuse(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recordings, "write_whole", refuse)
    with pytest.raises(LabError, match=r"cannot be written .No space left on device.; free some space"):
        recordings.build("07/small")


def test_labkit_build_makes_them_and_says_which_are_out_of_step(clone, capsys, monkeypatch):
    monkeypatch.setattr(build, "sources", lambda numbers=(): [])
    monkeypatch.setattr(build, "orphans", list)
    assert cli.main(["build", "--check"]) == 1
    assert "Recording 07/small has not been built" in capsys.readouterr().err
    assert cli.main(["build", "--recordings"]) == 0 and "recorded 07/small: " in capsys.readouterr().out
    assert cli.main(["build", "--recordings"]) == 0 and capsys.readouterr().out == ""  # nothing is out of step
    assert cli.main(["build", "--recordings", "07/small"]) == 0 and "recorded 07/small" in capsys.readouterr().out
    assert recordings.faults() == []
    assert cli.main(["build", "--recordings", "07/none"]) == 2
    told = "There is no recipe for the recording '07/none'; course/recordings has some for chapters 07."
    assert capsys.readouterr().err == f"labkit: {told}\n"


def test_the_courses_own_recordings_are_small_and_whole():
    for name in recordings.names():
        assert len(recordings.load(name).lanes.seeds) >= 10
        assert recordings.about(name)["name"] == name
