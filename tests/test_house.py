"""The rules of the house: what lies where, what may import what, what code never does, and that set-up files hold together."""
import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from labkit.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOP = {"pyproject.toml", "course", "labkit", "notebooks", "tests", "binder", "README.md", "LICENSE", "Makefile"}
TOP |= {"CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff"}


@cache
def files() -> list[str]:
    """What git holds or would add."""
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_top_level_holds_only_what_belongs_there():
    assert {name.split("/")[0] for name in files() if not name.startswith(".")} <= TOP


def test_no_machine_paths_and_no_registry_hosts():
    paths = "|".join(["/wo" + "rk/(main|shared)", "/tm" + "p/dev", "/ro" + "ot/", "/opt/" + "(pypi|wheels)"])
    hosts = "|".join(["pypi\\.o" + "rg", "pythonhoste" + "d", "pytorch\\.org/" + "whl", "conda\\.anacond" + "a"])
    for name in files():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        pattern = paths if name == "binder/requirements.txt" else f"{paths}|{hosts}"
        assert not (found := re.search(pattern, text)), f"{name} mentions {found[0]}"


# imports

MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sorted((ROOT / "labkit").rglob("*.py"))}
FAMILIES = {p.parent.name for p in (ROOT / "labkit").glob("*/family.py")}
LAYERS = [
    {"errors", "files", "knobs", "lanes", "nn", "transformer", "policy", "learner", "snapshot", "paper", "worlds.world"},
    {"worlds", "divergence", "stats", "verdict"},
    FAMILIES,
    {"meter", "occupancy", "record", "store", "claims.ledger", "claims.sources"},
    {"studio", "course", "claims"},
    {"scaffold", "runs", "cli"},
]


def layer(module: str) -> int:
    """How high a module stands, 0 for the core."""
    parts = module.split(".")[1:]
    for names in (".".join(parts[:2]), parts[0]):
        for height, members in enumerate(LAYERS):
            if names in members:
                return height
    raise AssertionError(f"{module} has no place in the order of imports; give it one in LAYERS")


def imports(path: Path) -> set[str]:
    """The modules of labkit that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            whole = [f"{node.module}.{a.name}" for a in node.names]
            found |= {name if name in MODULES or f"{name}.__init__" in MODULES else node.module for name in whole}
    return {name for name in found if name.startswith("labkit.")}


@pytest.mark.parametrize("module", [m for m in MODULES if m != "labkit.__init__"])
def test_imports_point_downwards(module):
    own = module.split(".")[1]
    for other in imports(MODULES[module]):
        assert layer(other) <= layer(module), f"{module} imports {other}, which stands above it"
        if own in FAMILIES and other.split(".")[1] in FAMILIES:
            assert other.split(".")[1] == own, f"{module} imports {other}, which belongs to another family"


def test_the_import_rule_sees_every_kind_of_import(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("import labkit.meter\ndef f():\n    from labkit import store\n    from labkit.on_policy.family import ppo\n")
    assert imports(path) == {"labkit.meter", "labkit.store", "labkit.on_policy.family"}
    assert [layer(m) for m in ("labkit.worlds.world", "labkit.worlds.gym", "labkit.on_policy.x", "labkit.cli")] == [0, 1, 2, 5]


# what code never does

LOADERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jax", "jsonpickle", "pickletools", "cPickle"}
PARALLEL = {"joblib.Parallel", "joblib.delayed", "joblib.parallel_config"}  # workers, which are told what to do and load no file
UNPICKLING = {"read_pickle", "read_hdf", "HDFStore", "PackageImporter"}  # of whatever module
YAML = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
RUN = {"eval", "exec", "compile", "__import__"}
RANDOM = {"rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "rand_like", "randn_like", "manual_seed", "seed"}


def meanings(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: `import numpy as np` -> {"np": "numpy"}."""
    found = {"np": "numpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom):
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def unsafe(full: str) -> bool:
    """Does the thing of this full name unpickle what it is given, whatever its options?"""
    top, _, rest = full.partition(".")
    name = rest.rpartition(".")[2]
    loads = (top in LOADERS and full not in PARALLEL and bool(rest)) or (top == "torch" and name.startswith("load"))
    return loads or name in UNPICKLING or (top == "builtins" and name in RUN)


def lenient(full: str, call: ast.Call) -> bool:
    """Do the options of a call let it unpickle, or build any object?"""
    options = {k.arg: ast.unparse(k.value) for k in call.keywords}
    pickles = options.get("allow_pickle", "False") != "False" or options.get("weights_only", "True") != "True"
    named = call.args and isinstance(call.args[0], ast.Constant) and str(call.args[0].value).split(".")[0]
    return (
        pickles
        or (full == "numpy.load" and len(call.args) > 2)
        or (full.startswith("yaml.") and full[5:] in YAML and not options.get("Loader", "").endswith("SafeLoader"))
        or (full.endswith("import_module") and named in LOADERS)
    )


def sins(source: str) -> list[str]:
    """Unsafe loading, running text as code, and randomness from global generators."""
    found, tree = [], ast.parse(source)
    known = meanings(tree)

    def full(node: ast.expr) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return known.get(first, first) + dot + rest

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in LOADERS | {"random"}]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{a.name}" for a in node.names]
            found += [name for name in names if unsafe(name) or name.startswith("random.")]
        elif isinstance(node, ast.Attribute) and unsafe(full(node)):
            found.append(full(node))
        elif isinstance(node, ast.Call):
            name = full(node.func)
            owner, _, last = name.rpartition(".")
            own_stream = any(k.arg == "generator" for k in node.keywords)
            drawn = owner == "torch" and last in RANDOM and not own_stream
            numpy = owner == "numpy.random" and last not in {"default_rng", "Generator", "SeedSequence", "Philox"}
            found += [name] if drawn or numpy or name in RUN or lenient(name, node) else []
    return found


@pytest.mark.parametrize("module", MODULES)
def test_labkit_loads_nothing_unsafe_and_draws_nothing_global(module):
    assert sins(MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import pickle, random", 2),
        ("from pickle import loads", 1),
        ("import _pickle as harmless", 1),
        ("import dill, shelve, cloudpickle, marshal", 4),
        ("from joblib import Parallel, delayed, parallel_config", 0),
        ("from joblib import Parallel, load", 1),
        ("import joblib", 1),
        ("from joblib.numpy_pickle import load", 1),
        ("torch.load(f)", 1),
        ("torch.load(f, weights_only=True)", 1),
        ("load = torch.load", 1),
        ("import torch as t\nt.jit.load(f)", 1),
        ("from torch import load", 1),
        ("from safetensors.torch import load\nload(data)", 0),
        ("np.load(f)", 0),
        ("np.load(f, allow_pickle=False)", 0),
        ("np.load(f, allow_pickle=True)", 1),
        ("np.load(f, None, True)", 1),
        ("from numpy import load\nload(f, allow_pickle=flag)", 1),
        ("pd.read_pickle(f)", 1),
        ("from pandas import read_pickle", 1),
        ("yaml.load(f)", 1),
        ("yaml.load(f, Loader=yaml.Loader)", 1),
        ("yaml.load(f, Loader=yaml.SafeLoader); yaml.safe_load(f)", 0),
        ("from yaml import unsafe_load\nunsafe_load(f)", 1),
        ("importlib.import_module('pickle')", 1),
        ("importlib.import_module(name)", 0),
        ("eval(x)", 1),
        ("import builtins\nbuiltins.exec(x)", 1),
        ("torch.rand(3)", 1),
        ("import torch as t\nt.rand(3)", 1),
        ("torch.rand(3, generator=g)", 0),
        ("np.random.seed(0)", 1),
        ("np.random.default_rng(0)", 0),
        ("os.execv(a, b); model.eval(); lanes.rand(3); re.compile(x)", 0),
    ],
)
def test_the_rule_catches_what_it_should(source, count):
    assert len(sins(source)) == count


@pytest.mark.parametrize("module", MODULES)
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(ast.parse(MODULES[module].read_text(encoding="utf-8")))


# set-up


def pins() -> dict[str, str]:
    lines = (ROOT / "binder" / "constraints.txt").read_text().splitlines()
    return dict(line.lower().replace("_", "-").split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_pinned_within_its_range():
    declared = [*PROJECT["dependencies"], *(d for extra in PROJECT["optional-dependencies"].values() for d in extra)]
    for requirement in map(Requirement, declared):
        pin = pins()[requirement.name.lower().replace("_", "-")]
        assert requirement.specifier.contains(pin), f"{requirement} excludes the pinned {pin}"


def test_the_environment_is_the_pinned_one():
    for name in ("torch", "numpy", "scipy", "gymnasium", "plotly", "jupyterlab", "ipykernel"):
        assert version(name).split("+")[0] == pins()[name]


def test_binder_files():
    binder = ROOT / "binder"
    assert (binder / "runtime.txt").read_text() == "python-3.11\n"
    lines = (binder / "requirements.txt").read_text().splitlines()
    assert lines[1:] == ["-c constraints.txt", "-e ."] and lines[0].startswith("--extra-index-url https://") and lines[0].endswith("/cpu")
    for script in (binder / "postBuild", binder / "start", ROOT / ".ci" / "run"):
        assert os.access(script, os.X_OK), f"{script.name} is not executable"
        assert subprocess.run(["bash", "-n", script]).returncode == 0


def test_binder_starts_what_it_is_told(tmp_path):
    done = subprocess.run([ROOT / "binder" / "start", "sh", "-c", "echo $OMP_NUM_THREADS $0", "told"], capture_output=True, text=True)
    assert done.stdout == "1 told\n"


def test_jupyter_finds_the_dashboard():
    group = "jupyter_serverproxy_servers"
    command = EntryPoint("drift", PROJECT["entry-points"][group]["drift"], group).load()()["command"]
    assert command[0] == sys.executable and "{port}" in command


def test_make_runs_every_kind_of_test():
    plan = subprocess.run(["make", "-n", "-B", "test"], cwd=ROOT, capture_output=True, text=True).stdout
    steps = ["-m venv", "pip install", "ruff check", "mypy", "--ignore=tests", "build --check", "--nbval ", "pytest -q tests/browser"]
    places = [plan.find(step) for step in steps]
    assert -1 not in places and places == sorted(places)


def test_make_takes_the_cpu_build_on_request():
    plan = subprocess.run(["make", "-n", "-B", "lab", "TORCH_INDEX=cpu"], cwd=ROOT, capture_output=True, text=True).stdout
    address = (ROOT / "binder" / "requirements.txt").read_text().split()[1]
    assert f"--extra-index-url {address}" in plan
    assert "extra-index-url" not in subprocess.run(["make", "-n", "-B", "lab"], cwd=ROOT, capture_output=True, text=True).stdout


def test_the_version_is_told_alike_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] and citation["cff-version"] == "1.2.0"
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_pre_commit_uses_the_pinned_ruff():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert hooks[0]["additional_dependencies"] == [f"ruff=={pins()['ruff']}"]
