"""The `labkit` command: each subcommand is a few lines and imports what it needs when it runs."""
import argparse
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from labkit.errors import LabError
from labkit.files import ROOT, home

START = "notebooks/00_start_here.ipynb"


def lab(args: argparse.Namespace) -> int:
    """Become JupyterLab, on the start page."""
    command = [sys.executable, "-m", "jupyterlab", "--ip=localhost"]
    command += [f"--ServerApp.root_dir={ROOT}", f"--LabApp.default_url=/lab/tree/{START}"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    os.environ |= {"JUPYTER_PREFER_ENV_PATH": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
    os.execv(sys.executable, [*command, *args.rest])


def serve(args: argparse.Namespace) -> int:
    """Serve the pages until interrupted."""
    from labkit.studio import serve as server

    names = ("port", "address", "allow_origin", "show", "password_file", "no_password", "seats")
    server.main(**{name: getattr(args, name) for name in names})
    return 0


def behind_jupyter() -> dict[str, Any]:
    """How jupyter-server-proxy starts the Drift Explorer at /drift. Only the proxy, which has checked the user, can reach it."""
    options = ["--port", "{port}", "--address", "localhost", "--allow-origin", "*", "--no-show"]
    return {
        "command": [sys.executable, "-m", "labkit.cli", "serve", *options],
        "timeout": 180,  # a small machine may need a minute to start
        "launcher_entry": {"title": "Drift Explorer"},
    }


def build(args: argparse.Namespace) -> int:
    """Build notebooks, or say which are out of step."""
    from labkit.course import build as builder

    return builder.main(args.chapters, args.check, args.recordings)


def papers(args: argparse.Namespace) -> int:
    """List every method that discovery finds, and what became of its claim."""
    rows = catalogue()
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    columns = ("key", "family", "base", "changed", "chapter")
    print(table([(*columns, "verdict", "effect"), *([_cell(row[c]) for c in columns] + _outcome(row["verdict"]) for row in rows)]))
    return 0


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(value: object) -> str:
    return "-" if not value else ", ".join(value) if isinstance(value, list) else str(value)


def _outcome(verdict: dict[str, Any] | None) -> list[str]:
    """A verdict in two cells: the decision; the effect with its interval, which has no width where something was counted."""
    if verdict is None:
        return ["-", "-"]
    value, low, high = (f"{verdict[name]:.3g}" for name in ("value", "low", "high"))
    return [verdict["held"] + ", stale" * verdict["stale"], value if low == high else f"{value} [{low}, {high}]"]


def catalogue() -> list[dict[str, Any]]:
    """One entry per discovered method, by family and key; `verdict` is null until the claim has been judged."""
    from labkit.claims import ledger
    from labkit.paper import changed, discover, module_of

    found = discover()
    rows = []
    for key, algorithm in found.items():
        card, entry = algorithm.paper, ledger.latest(key)
        told = ("held", "value", "low", "high", "rule", "time")
        rows.append(
            {
                "key": key,
                "title": card.title,
                "family": type(algorithm).__module__.split(".")[1],
                "base": card.base or None,
                "changed": changed(algorithm, found[card.base]) if card.base else [],
                "claim": card.claim,
                "verdict": {name: getattr(entry, name) for name in told} | {"stale": ledger.stale(entry)} if entry else None,
                "file": module_of(algorithm).replace(".", "/") + ".py",
                "chapter": None if card.chapter is None else f"{card.chapter:02d}",
            }
        )
    return sorted(rows, key=lambda row: (row["family"], row["key"]))


def claims(args: argparse.Namespace) -> int:
    """Judge claims, and tell each verdict as it ends; or tell how well tests and claims tell papers from mutants of them."""
    if args.mutate:
        from labkit.claims import teeth

        told = teeth.scores(args.keys, args.jobs)
        print(json.dumps([vars(score) for score in told], indent=1) if args.json else teeth.report(told))
        return 0
    from tqdm import tqdm

    from labkit.claims.judging import judge

    def tell(entry) -> None:
        tqdm.write("  ".join([entry.key, *_outcome(vars(entry) | {"stale": False}), f"{entry.seconds:.0f} s"]))

    if not judge(args.keys, args.seeds, args.first, args.all, args.jobs, args.scheduler, tell=tell):
        print("Every verdict is fresh; name papers, or add --all, to judge them again.")
    return 0


def train(args: argparse.Namespace) -> int:
    """Train to disk."""
    from labkit import runs

    return runs.train(args)


def runs(args: argparse.Namespace) -> int:
    """Look after the runs on disk."""
    from labkit import runs

    return runs.act(args)


def new(args: argparse.Namespace) -> int:
    """Write a paper, its test and its chapter entry."""
    from labkit import scaffold

    for path in scaffold.new(args.family, args.key, args.base, args.slot, args.chapter):
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def progress(args: argparse.Namespace) -> int:
    """Show the reader's progress, or move it to or from a file."""
    from labkit.course import progress as results

    if args.load:
        results.import_from(args.load)
    if args.export:
        print(f"wrote {results.export_to(args.export)}")
    else:
        print(results.report())
    return 0


def bench(args: argparse.Namespace) -> int:
    """Measure speed, latency and memory beside the peers."""
    return subprocess.run([sys.executable, ROOT / "tests" / "bench" / "run.py", *args.rest]).returncode


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser("labkit", description="Drift Lab: an interactive course on policy drift.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(run.__name__, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    command(lab, "Open JupyterLab on the start page; further options go to JupyterLab.").set_defaults(passes_on=True)

    sub = command(serve, "Serve the Drift Explorer and the other pages.")
    sub.add_argument("--port", type=int, default=5006)
    sub.add_argument("--address", default="localhost", help="interface to listen on (default: %(default)s)")
    sub.add_argument("--allow-origin", action="append", metavar="HOST:PORT", help="another host that pages may come from; may be repeated")
    sub.add_argument("--no-show", dest="show", action="store_false", help="do not open a browser")
    sub.add_argument("--password-file", metavar="FILE", help="ask visitors for the password in it (or in $DRIFTLAB_PASSWORD)")
    sub.add_argument("--no-password", action="store_true", help="let anyone in who can reach the address")
    sub.add_argument("--class", dest="seats", nargs="?", const=30, type=int, metavar="SEATS", help="for a lecture (default: 30 seats)")

    sub = command(build, "Build the notebooks from course/chapters.")
    sub.add_argument("chapters", nargs="*", metavar="NN", help="chapter numbers (default: all)")
    sub.add_argument("--check", action="store_true", help="build nothing; fail if a notebook or a recording is out of step")
    sub.add_argument("--recordings", nargs="*", metavar="NAME", help="train recordings anew, such as 03/props (default: those out of step)")

    sub = command(papers, "List every method and what it changes.")
    sub.add_argument("--json", action="store_true")

    sub = command(claims, "Put the papers' claims to the test and write what comes out into the ledger.")
    sub.add_argument("keys", nargs="*", metavar="KEY", help="papers (default: those whose verdict is missing or stale)")
    sub.add_argument("--all", action="store_true", help="every paper, however fresh its verdict")
    sub.add_argument("--seeds", type=int, metavar="N", help="how many (default: as many as the check says)")
    sub.add_argument("--first", type=int, metavar="N", help="the first of them (default: the check's)")
    sub.add_argument("--jobs", type=int, metavar="N", help="processes (default: one per core)")
    sub.add_argument("--mutate", action="store_true", help="judge the tests instead: do they fail when the code is changed?")
    sub.add_argument("--json", action="store_true", help="with --mutate: the score as JSON")
    sub.add_argument("--scheduler", metavar="ADDRESS", help="work on the cluster of this Dask scheduler, such as tcp://host:8786")

    sub = command(train, "Train a method to disk, or go on with a run. Ctrl-C keeps what is done.")
    sub.add_argument("method", nargs="?", metavar="METHOD", help="one that `labkit papers` lists, such as ppo")
    sub.add_argument("world", nargs="?", metavar="WORLD", help="such as control.cartpole")
    sub.add_argument("--knobs", metavar="TEXT", help='values to train side by side, such as "eps=0.1,0.2 lr=0.003"')
    sub.add_argument("--options", metavar="TEXT", help='of the world, such as "layout_seed=3 view=state"')
    sub.add_argument("--shape", metavar="TEXT", help='of the method, such as "envs=64 steps=32"')
    sub.add_argument("--seeds", type=int, metavar="N", help="how many (default: 10)")
    sub.add_argument("--steps", type=int, metavar="N", help="environment steps per lane (default: 100000, or the run's goal)")
    sub.add_argument("--every", type=int, metavar="N", help="updates from one stored learner to the next (default: about 64 in all)")
    sub.add_argument("--name", help="of the run (default: the world's, the method's and a number)")
    sub.add_argument("--resume", metavar="NAME", help="go on with this run")

    sub = command(runs, "List the runs on disk, or show, compare, fork, delete, export or import some.")
    actions = sub.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="list them (so does no action)")
    actions.add_parser("show", help="all about one run").add_argument("name")
    sub = actions.add_parser("compare", help="several runs at the last step that all have reached")
    sub.add_argument("names", nargs="+", metavar="NAME")
    sub.add_argument("--curve", default="return", help="which metric (default: %(default)s)")
    sub = actions.add_parser("fork", help="begin a run from a snapshot of another")
    sub.add_argument("name")
    sub.add_argument("--at", type=int, metavar="UPDATE", help="after which update (default: the last that is stored)")
    sub.add_argument("--knobs", metavar="TEXT", help="other values of the knobs (default: the same)")
    sub.add_argument("--setting", type=int, metavar="N", help="the setting that all go on from, where they are not as many as before")
    sub.add_argument("--steps", type=int, metavar="N", help="its goal (default: the same)")
    sub.add_argument("--name", dest="new", metavar="NEW", help="what to call it")
    actions.add_parser("delete", help="delete runs").add_argument("names", nargs="+", metavar="NAME")
    sub = actions.add_parser("export", help="zip a run")
    sub.add_argument("name")
    sub.add_argument("file")
    sub = actions.add_parser("import", help="unpack a zip that was exported")
    sub.add_argument("file")
    sub.add_argument("--name", help="what to call it (default: as it was called)")

    sub = command(new, "Begin a paper: its file, its test, its chapter entry.")
    sub.add_argument("family", help="a folder of labkit, such as on_policy")
    sub.add_argument("key", help="the paper's short name, such as fixpo")
    sub.add_argument("--base", help="key of the method it changes (default: the family's first)")
    sub.add_argument("--slot", help="the slot it replaces (default: the base's last)")
    sub.add_argument("--chapter", metavar="NN", help="where it is taught (default: what the syllabus says)")

    sub = command(progress, "Show your progress.")
    sub.add_argument("--export", metavar="FILE", help="write it to a file")
    sub.add_argument("--import", dest="load", metavar="FILE", help="merge a file into it")

    command(bench, "Measure speed, latency and memory beside the peers; further options go to the benchmark.").set_defaults(passes_on=True)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run a command. The exit code: 2 for a LabError, 1 for a fault of labkit's own, 130 when interrupted; each told in one line."""
    top = parser()
    args, args_rest = top.parse_known_args(argv)
    if args_rest and not getattr(args, "passes_on", False):
        top.error(f"unrecognized arguments: {' '.join(args_rest)}")
    args.rest = args_rest
    try:
        return args.run(args)
    except LabError as error:
        code, words = 2, str(error)
    except KeyboardInterrupt:
        code, words = 130, "Interrupted."
    except Exception as error:
        code, words = 1, f"A fault of labkit's own, {type(error).__name__}; {log_fault(sys.argv if argv is None else argv)}."
    print(f"labkit: {words}", file=sys.stderr)
    return code


def log_fault(command: list[str]) -> str:
    """Append the trace of the exception at hand to a file in the user's data folder; where to find it, in words."""
    entry = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {' '.join(command)}\n{traceback.format_exc()}\n"
    try:
        home().mkdir(parents=True, exist_ok=True)
        with (home() / "faults.log").open("a", encoding="utf-8") as log:
            log.write(entry)
    except OSError as error:
        return f"its trace could not be kept ({error.strerror})"
    return f"its trace is in {home() / 'faults.log'}; please report it"


if __name__ == "__main__":
    sys.exit(main())
