"""`labkit train` and `labkit runs`, as they are typed."""
import signal

import pytest

from labkit import cli, store
from labkit.on_policy.family import ppo

TINY = ["--seeds", "2", "--steps", "8", "--every", "2"]
RIVER = ["exact_pg", "finite.riverswim", *TINY, "--name", "river"]


def labkit(capsys, *words):
    """Exit code, what is printed, and what is told on stderr (without the progress bar)."""
    code = cli.main(list(words))
    out, err = capsys.readouterr()
    return code, out, "\n".join(line for line in err.replace("\r", "\n").splitlines() if "%|" not in line and line.strip())


def test_runs_are_trained_listed_shown_forked_compared_moved_and_deleted(capsys, tmp_path):
    assert labkit(capsys, "runs")[1].endswith("yet; begin one with `labkit train ppo control.cartpole`.\n")
    code, out, _ = labkit(capsys, "train", *RIVER, "--knobs", "eta=1,10", "--options", "gamma=0.9")
    assert (code, out) == (0, "river: 8 steps per lane, 4 snapshots; look at it with `labkit runs show river`.\n")
    assert "river  exact_pg  finite.riverswim  4      8      8   4" in labkit(capsys, "runs", "list")[1]
    shown = labkit(capsys, "runs", "show", "river")[1]
    assert "finite.riverswim gamma=0.9" in shown and "4: seeds 0, 1; eta=1,10" in shown and "after updates 2, 4, 6, 8" in shown
    assert labkit(capsys, "runs", "fork", "river", "--at", "4", "--knobs", "eta=5,7", "--name", "branch", "--steps", "10")[0] == 0
    assert "river after update 4, step 4" in labkit(capsys, "runs", "show", "branch")[1]
    assert "can go on" in labkit(capsys, "runs")[1]
    assert labkit(capsys, "train", "--resume", "branch")[1].startswith("branch: 10 steps per lane")
    rows = [line.split()[:4] for line in labkit(capsys, "runs", "compare", "river", "branch")[1].splitlines()]
    settings = [("river", "eta=1"), ("river", "eta=10"), ("branch", "eta=5"), ("branch", "eta=7")]
    assert rows[1:] == [[*setting, "2", "8"] for setting in settings]
    file = str(tmp_path / "river.zip")
    assert labkit(capsys, "runs", "export", "river", file)[1] == f"wrote {file}\n"
    assert labkit(capsys, "runs", "delete", "river", "branch")[1] == "deleted river\ndeleted branch\n" and store.names() == []
    assert labkit(capsys, "runs", "import", file, "--name", "again")[0] == 0 and store.find("again").updates == 8


def test_a_method_keeps_the_shape_that_it_was_given(capsys):
    shape = ["--shape", "envs=2 steps=4 width=4 minibatches=1"]
    assert labkit(capsys, "train", "ppo", "finite.riverswim", *TINY, *shape)[0] == 0
    run = store.find("riverswim-ppo-1")
    assert (run.step, run.algorithm().shape.envs, run.algorithm().shape.kept) == (8, 2, ppo.shape.kept)


def interrupt_at(step):
    """Run.append, upon whose end at that step Ctrl-C is pressed."""
    append = store.Run.append

    def appending(run, snapshot):
        append(run, snapshot)
        if snapshot.step == step:
            signal.raise_signal(signal.SIGINT)

    return appending


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(capsys, monkeypatch, at_a_terminal):
    with monkeypatch.context() as patch:
        patch.setattr(store.Run, "append", interrupt_at(5))
        code, _, err = labkit(capsys, "train", *RIVER)
    assert (code, err) == (130, "river: stopped at step 5 of 8; go on with `labkit train --resume river`.")
    assert store.find("river").kept == [2, 4, 5]
    assert labkit(capsys, "train", "--resume", "river")[0] == 0 and store.find("river").kept == [2, 4, 5, 6, 8]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train"], "needs a METHOD and a WORLD"),
        (["train", "pppo", "finite.chain"], "There is no method 'pppo'"),
        (["train", "ppo", "finite.chian"], "There is no world 'finite.chian'; did you mean"),
        (["train", "ppo", "finite.chain", "--shape", "depth=3"], "ppo cannot have the shape depth=3; it takes whole numbers of 1 or more"),
        (["train", "exact_pg", "finite.chain", "--shape", "envs=3"], "exact_pg cannot have the shape envs=3; it takes whole numbers"),
        (["train", "ppo", "finite.chain", "--seeds", "0"], "at least one seed"),
        (["train", "ppo", "finite.chain", "--steps", "0"], "at least 1 step"),
        (["train", "ppo", "finite.chain", "--every", "0"], "every=0"),
        (["train", "ppo", "finite.chain", "--knobs", "eps"], "'eps' cannot be read"),
        (["train", "ppo", "finite.chain", "--name", "../x"], "'../x' cannot name a run"),
        (["train", "--resume", "gone"], "There is no run 'gone'"),
        (["train", "--resume", "gone", "--seeds", "3"], "leave seeds out"),
        (["runs", "show", "gone"], "There is no run 'gone'"),
        (["runs", "delete", ".."], "'..' cannot name a run"),
        (["runs", "import", "gone.zip"], "gone.zip cannot be unpacked"),
    ],
)
def test_bad_input_is_one_line_and_code_2(capsys, words, says):
    code, out, err = labkit(capsys, *words)
    assert (code, out) == (2, "") and says in err and err.count("\n") == 0 and err.endswith((".", "?"))


def test_damage_is_told_and_the_rest_is_shown(capsys):
    assert labkit(capsys, "train", *RIVER)[0] == 0
    part = store.root() / "river" / "learner-00000006.safetensors"
    part.write_bytes(part.read_bytes()[:-1])
    code, out, err = labkit(capsys, "runs", "show", "river")
    assert code == 0 and "after updates 2, 4" in out
    assert err.startswith("run river: damaged after step 4; the first 2 snapshots are intact (")
    assert labkit(capsys, "train", "--resume", "river")[2].startswith("labkit: run river: damaged after step 4;")
    (store.root() / "river" / "meta.json").write_text("{}")
    code, out, err = labkit(capsys, "runs")
    assert code == 0 and err.endswith("is no run of Drift Lab: its meta.json was written by another program; name another folder.")
