"""`labkit train` and `labkit runs`: training to disk from the command line, and what is done with the runs there."""
import argparse
import sys
from collections.abc import Sequence

import torch
from tqdm import tqdm

from labkit import stats, store
from labkit.cli import table
from labkit.errors import LabError
from labkit.knobs import read_knobs, read_options, write_knobs
from labkit.lanes import Lanes
from labkit.paper import Algorithm, discover
from labkit.record import Record
from labkit.store import Run


def train(args: argparse.Namespace) -> int:
    """Begin a run, or go on with one, up to its goal. Ctrl-C keeps what is done. The exit code."""
    torch.set_num_threads(1)
    with _wanted(args) as run:
        goal = args.steps or run.goal
        with tqdm(desc=run.name, total=goal, initial=min(run.step, goal), unit=" steps", disable=None) as bar:
            try:
                for snapshot in store.train(run, goal):
                    bar.update(min(snapshot.step, goal) - bar.n)
            except KeyboardInterrupt:
                run.flush()
                bar.close()
                where = f"stopped at step {run.step:,} of {goal:,}"
                print(f"{run.name}: {where}; go on with `labkit train --resume {run.name}`.", file=sys.stderr)
                return 130
    print(f"{run.name}: {run.step:,} steps per lane, {len(run.kept)} snapshots; look at it with `labkit runs show {run.name}`.")
    return 0


def _wanted(args: argparse.Namespace) -> Run:
    """The run to train, open for writing. LabError where it cannot be, or the arguments do not go together."""
    given = {name: getattr(args, name) for name in ("method", "world", "name", "knobs", "options", "shape", "seeds", "every")}
    if args.resume:
        if extra := [name for name, value in given.items() if value is not None]:
            raise LabError(f"--resume goes on with the settings that {args.resume} has; leave {', '.join(extra)} out, or fork it.")
        run = store.find(args.resume, write=True)
        if run.denied:
            raise LabError(run.denied)
        return run
    if args.method is None or args.world is None:
        raise LabError("labkit train needs a METHOD and a WORLD, such as `labkit train ppo control.cartpole`, or --resume NAME.")
    lanes = Lanes(tuple(range(10 if args.seeds is None else args.seeds)), read_knobs(args.knobs or ""))
    steps, options = (100_000 if args.steps is None else args.steps), read_options(args.options or "")
    return store.begin(_method(args.method, args.shape or ""), args.world, lanes, steps, options, args.every, args.name)


def _method(key: str, shape: str) -> Algorithm:
    """The method called `key`, of this shape. LabError where either is not known."""
    found = discover()
    if key not in found:
        raise LabError(f"There is no method {key!r}; `labkit papers` lists those that there are.")
    return store.shaped(found[key], read_options(shape)) if shape else found[key]


def show_all() -> None:
    """List the user's runs; those that cannot be read are told on stderr."""
    rows = [("run", "method", "world", "lanes", "steps", "of", "snapshots", "MB", "state")]
    for name in store.names():
        try:
            run = store.find(name)
        except LabError as error:
            print(error, file=sys.stderr)
            continue
        numbers = (f"{run.step:,}", f"{run.goal:,}", str(len(run.kept)), f"{run.size / 1e6:.1f}")
        rows.append((name, run.meta["algorithm"], run.meta["world"], str(len(run.lanes)), *numbers, run.state))
    print(table(rows) if len(rows) > 1 else f"There are no runs in {store.root()} yet; begin one with `labkit train ppo control.cartpole`.")


def show(name: str) -> None:
    """All about one run: what decides it, where it stands, how it came out."""
    run = store.find(name)
    training, parent = run.meta["training"] or {}, run.meta["parent"]
    lines = [
        ("run", f"{name}, in {run.folder}"),
        ("method", run.meta["algorithm"]),
        ("world", " ".join([run.meta["world"], *(f"{k}={v}" for k, v in training.get("options", {}).items())])),
        ("lanes", f"{len(run.lanes)}: seeds {', '.join(map(str, run.lanes.seeds))}; {write_knobs(run.lanes.grid) or 'one setting'}"),
        ("shape", " ".join(f"{k}={v}" for k, v in (training.get("shape") or {}).items()) or "-"),
        ("begun", f"{run.meta['created']}, {', '.join(f'{k} {v}' for k, v in run.meta['versions'].items())}"),
        ("parent", f"{parent['run']} after update {parent['update']}, step {parent['step']:,}" if parent else "-"),
        ("stands", f"{run.step:,} of {run.goal:,} steps per lane, {run.updates} updates; {run.state}"),
        ("learners", f"after updates {', '.join(map(str, run.kept))}" if run.kept else "none"),
    ]
    print(table(lines))
    if run.entries and "metrics" in run.entries[-1].parts:
        print(_outcome({name: run.record()}, "return"))
    if run.damage:
        print(run.damage, file=sys.stderr)


def compare(names: Sequence[str], curve: str) -> None:
    """A table of several runs at the last step that all have reached."""
    print(_outcome(store.compare(names), curve))


def _outcome(records: dict[str, Record], curve: str) -> str:
    """A row for every setting: where the curve stands at the end, over seeds."""
    rows = [("run", "setting", "seeds", "step", curve, "95% interval")]
    for name, record in records.items():
        if curve not in record.curves:
            raise LabError(f"Run {name} has no curve {curve!r}; it has {', '.join(record.curves)}.")
        for point, setting in enumerate(record.lanes.points):
            last = record.curves[curve][-1, record.setting(point)]
            words = ("-", "-")
            if last.isfinite().all():
                value, low, high = (x.item() for x in stats.interval(last))
                words = (f"{value:.4g}", f"{low:.4g} to {high:.4g}")
            knobs = ", ".join(f"{k}={v:g}" for k, v in setting.items()) or "-"
            rows.append((name, knobs, str(len(last)), f"{record.steps[-1]:,}", *words))
    return table(rows)


def fork(args: argparse.Namespace) -> None:
    """A new run that goes on from a snapshot of another."""
    grid = None if args.knobs is None else read_knobs(args.knobs)
    with store.fork(args.name, args.new, args.at, grid, args.setting, args.steps) as run:
        print(f"{run.name} goes on from {args.name} at step {run.step:,}; train it with `labkit train --resume {run.name}`.")


def act(args: argparse.Namespace) -> int:
    """Do what `labkit runs` is told. The exit code."""
    match args.action:
        case "show":
            show(args.name)
        case "compare":
            compare(args.names, args.curve)
        case "fork":
            fork(args)
        case "delete":
            for name in args.names:
                store.delete(name)
                print(f"deleted {name}")
        case "export":
            print(f"wrote {store.export(args.name, args.file)}")
        case "import":
            print(f"{store.bring(args.file, args.name).name} is there; look at it with `labkit runs show`.")
        case _:
            show_all()
    return 0
