"""What a number rests on: all that is run for it, a world only where it is used, and no words."""
import shutil
import sys
import textwrap

import pytest

from labkit import worlds
from labkit.claims import ledger, sources
from labkit.course.progress import module as load
from labkit.files import ROOT
from labkit.paper import discover, module_of
from labkit.worlds import registry


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    root = tmp_path_factory.mktemp("clone")
    for folder in ("labkit", "course/recordings"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__", "*.rec"))
    return root


def edited(package, file, old, new):
    """Has the fingerprint of fixpo's code changed after this edit? The edit is undone."""
    before, path = sources.fingerprint({"labkit.on_policy.fixpo"}, package), package / "labkit" / file
    source = path.read_text()
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    path.write_text(source.replace(old, new))
    after = sources.fingerprint({"labkit.on_policy.fixpo"}, package)
    path.write_text(source)
    return before != after


def test_a_copy_of_the_package_has_the_same_code(package):
    assert sources.fingerprint({"labkit.on_policy.fixpo"}, package) == ledger.code_of("fixpo")


@pytest.mark.parametrize(("file", "old", "new"), [
    ("on_policy/fixpo.py", "LIMIT = 300", "LIMIT = 30"),
    ("on_policy/fixpo.py", 'Knob(0.1, 0.005, 0.5, "bound', 'Knob(0.2, 0.005, 0.5, "bound'),
    ("on_policy/fixpo.py", "Every update ends", "No update ends"),  # the claim itself
    ("on_policy/checks.py", "if snapshot.step >= steps", "if snapshot.step > steps"),
    ("on_policy/family.py", "return ratio * adv", "return ratio + adv"),
    ("worlds/control.py", "class CartPole(Control):", "class CartPole(Control):\n    more = 1"),
    ("verdict.py", "if low > bound", "if low >= bound"),
    ("stats.py", "RESAMPLES = 10_000", "RESAMPLES = 1_000"),
    ("__init__.py", '"MKL_CBWR", "AUTO"', '"MKL_CBWR", "AVX2"'),
])  # fmt: skip
def test_a_change_of_code_that_it_rests_on_makes_it_stale(package, file, old, new):
    assert edited(package, file, old, new)


@pytest.mark.parametrize(("file", "old", "new"), [
    ("on_policy/fixpo.py", "# repair steps after which a lane gives its update up", "# when to give up"),
    ("on_policy/fixpo.py", '"""One step down loss + beta * mean KL, and one of beta."""', '"""Two steps."""'),
    ("on_policy/fixpo.py", "LIMIT = 300", "LIMIT   =  (300)"),
    ("on_policy/fixpo.py", 'lesson="A penalty almost keeps a promise', 'lesson="A penalty nearly keeps a promise'),
    ("on_policy/trpo.py", "0.8**j * step", "0.7**j * step"),
    ("tabular/family.py", "GAP = 80.0", "GAP = 8.0"),
    ("worlds/grid/view.py", "import torch", "import torch, math"),
    ("cli.py", "import json", "import json, math"),
])  # fmt: skip
def test_words_and_code_of_others_do_not(package, file, old, new):
    assert not edited(package, file, old, new)


# ---- worlds -----------------------------------------------------------------------------------------------------


def everything(root):
    """The fingerprints of all papers and of all recordings."""
    told = {key: {module_of(found)} | {check.__module__ for check in [ledger.check_of(key)] if check} for key, found in discover().items()}
    told |= {path.stem: {f"course.recordings.{path.stem}"} for path in (root / "course" / "recordings").glob("*.py")}
    return {name: sources.fingerprint(modules, root) for name, modules in told.items()}


def test_a_new_world_changes_nothing_for_all_who_do_not_use_it(package):
    before, init = everything(package), package / "labkit" / "worlds" / "__init__.py"
    assert {"ppo", "02", "07"} <= before.keys()
    world = "from labkit.worlds.registry import register\n\n@register('finite.fresh')\ndef fresh():\n    return None\n"
    (init.parent / "fresh.py").write_text(world)
    init.write_text("from labkit.worlds import fresh\n" + init.read_text().replace('"finite", ', '"finite", "fresh", '))
    assert '"fresh"' in init.read_text() and everything(package) == before


SMALL = {
    "worlds/__init__.py": """
        from labkit.worlds import one, two
        from labkit.worlds.registry import make, names
        from labkit.worlds.two import Two
        __all__ = ["Two", "make", "names", "one", "two"]
        """,
    "worlds/registry.py": "def make(key): ...\ndef names(): ...",
    "worlds/one.py": "from labkit.worlds.registry import register\n@register('w.one')\nclass One: ...",
    "worlds/two.py": "from labkit.worlds.registry import register\nregister('w.two')(Two)",
    "other.py": "from labkit.worlds.one import One",
    "family/__init__.py": "from labkit.other import One\nfrom labkit.family.rest import rest\nsmall = One()",
    "family/rest.py": "from labkit.worlds import two",
}


@pytest.mark.parametrize(("code", "rests"), [
    ("from labkit.worlds import one", "one"),
    ("from labkit.worlds.two import Two", "two"),
    ("from labkit.worlds import Two", "two"),
    ("from labkit import worlds\nworlds.two.x", "two"),
    ("from labkit import worlds\nworlds.Two().x", "two"),
    ("import labkit.worlds\nlabkit.worlds.one.x", "one"),
    ("import labkit.worlds as w\nw.one.x", "one"),
    ("from labkit import worlds\nworlds.make('w.one').x", "one"),
    ("from labkit.worlds import make\nmake('w.two', n=3)", "two"),
    ("from labkit.worlds.registry import make as m\ndef f(): return m('w.one')", "one"),
    ("from labkit.worlds import registry\nregistry.make('w.one')", "one"),
    ("from labkit import worlds\nworlds.names()", ""),
    ("from labkit import other", "one"),  # through others
    ("from labkit.family import rest", "one two"),
    ("from labkit.family import nothing", "one"),  # what the package runs itself
    # what cannot be told
    ("from labkit import worlds\ndef f(name): return worlds.make(name)", "one two"),
    ("from labkit import worlds\nworlds.make(f'w.{name}')", "one two"),
    ("from labkit import worlds\nworlds.make(key='w.one')", "one two"),
    ("from labkit import worlds\nworlds.make('w.three')", "one two"),
    ("from labkit import worlds\nmake = worlds.make\nmake('w.one')", "one two"),
    ("from labkit.worlds import make\nmap(make, ['w.one'])", "one two"),
    ("from labkit.worlds import registry\ngetattr(registry, 'make')('w.one')", "one two"),
    ("from labkit import worlds\ngetattr(worlds, 'one')", "one two"),
    ("from labkit.worlds import *", "one two"),
])  # fmt: skip
def test_a_world_counts_where_it_is_used(code, rests, tmp_path):
    for name, text in (SMALL | {"a.py": code}).items():
        path = tmp_path / "labkit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    found = sources.rests_on({"labkit.a"}, tmp_path)
    assert {name for name in found if name in ("labkit.worlds.one", "labkit.worlds.two")} == {f"labkit.worlds.{w}" for w in rests.split()}


def test_every_world_is_found_by_its_key():
    makers = {key: registry._MAKERS[key].__module__ for key in worlds.names()}
    assert len(makers) > 20 and all(makers[key] in sources.rests_on(sources.holders(key)) for key in makers)


# ---- what is run ------------------------------------------------------------------------------------------------


def run(function, *args, **settings):
    """The files of labkit, from its root, whose functions this runs."""
    files = set()
    sys.setprofile(lambda frame, event, arg: files.add(frame.f_code.co_filename))
    try:
        function(*args, **settings)
    finally:
        sys.setprofile(None)
    return {path.removeprefix(f"{ROOT}/") for path in files if path.startswith(f"{ROOT}/labkit/")}


def counted(modules, root=ROOT):
    return {str(path.relative_to(root)) for path in sources.rests_on(modules, root).values()}


SHORT = {
    "vmpo": {"steps": 10, "updates": 2},
    "exit_time_pg": {"updates": 2, "paths": 2},
    "querybandits": {"queries": 2},
    "purely_periodic": {},
    "soft_policy_iteration": {"steps": 5},
}


@pytest.mark.parametrize("key", SHORT)
def test_all_that_a_check_runs_counts(key):
    check, modules = ledger.check_of(key), {module_of(discover()[key]), ledger.check_of(key).__module__}
    files = run(check, range(10), **SHORT[key])
    assert len(files) > 8 and files <= counted(modules)


RECIPE = """
from labkit import worlds
from labkit.course.recordings import Recording
from labkit.lanes import Lanes
from labkit.on_policy.family import Shape, ppo
from labkit.record import record
from dataclasses import replace

def short() -> Recording:
    method = replace(ppo, shape=Shape(envs=2, steps=4, width=4, minibatches=1))
    return Recording(record(method, worlds.make("grid.empty"), Lanes(), 16), method, {})
"""


def test_all_that_a_recipe_runs_counts(package):
    path = package / "course" / "recordings" / "99.py"
    path.write_text(RECIPE)
    files = run(load(path).short)
    assert {"labkit/worlds/registry.py", "labkit/worlds/grid/view.py"} < files <= counted({"course.recordings.99"}, package)
    assert "labkit/worlds/control.py" not in counted({"course.recordings.99"}, package)
