"""Every rule makes the mutants that it should; good tests kill them, weak ones do not; papers' tests know papers from mutants."""
import ast
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from labkit.claims import teeth
from labkit.claims.mutation import mutants
from labkit.claims.teeth import Identity, Score, bite, change, claimed, of_paper, reached, report
from labkit.errors import LabError
from labkit.on_policy.family import ppo
from labkit.paper import changed, discover


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """module(source) -> the name of a module that holds it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source):
        name = f"tiny_{abs(hash(request.node.nodeid))}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        return name

    return write


@pytest.mark.parametrize(
    ("kind", "code", "made"),
    [
        ("arithmetic", "return a + b", {"a - b"}),
        ("arithmetic", "a |= b\n    return a", {"a &= b"}),
        ("term", "return a * b", {"a", "b"}),
        ("term", "return (a and b) or c", {"c", "a and b", "a", "b"}),
        ("sign", "return a - -b", {"b", "return -(a - -b)"}),
        ("sign", "return a, b", {"return (-a, b)", "return (a, -b)"}),
        ("comparison", "return a < b", {"a <= b", "a >= b"}),
        ("comparison", "return a is b", {"a is not b"}),
        ("number", "return f(1, 0.5, 1e-8, 0.0, True)", {"2", "1.0", "False"}),
        ("opposite", "return min(a.amax(), b)", {"max", "a.amin"}),
        ("order", "return where(a, b, c)", {"where(a, c, b)"}),
        ("order", "return torch.maximum(a, b)", set()),
        ("call", "return a.detach() + torch.sqrt(b) + math.pi", {"a", "b"}),
        ("condition", "return b if a else c", {"b if not a else c"}),
        ("condition", "while a:\n        a = b\n    return a", {"while not a:"}),
        ("statement", "print(a)\n    a.x = b\n    a[0] += c\n    d = a\n    return d", {"pass"}),
        ("loop", "for x in a:\n        f(x)\n    return x", {"for x in a:"}),
    ],
)
def test_rules(module, kind, code, made):
    name = module(f'''
def f(a, b: Tensor = 1, c=2) -> Tensor:
    """1 + 1"""
    assert a + 1
    if a:
        raise ValueError(f"{{a - 1}}")
    {code}
''')
    found = [m for m in mutants(name) if m.kind == kind and m.line > 6]
    assert {m.change.split(" -> ", 1)[1] for m in found} == made
    assert len(found) == len(made) or kind in ("number", "statement")
    assert all(m.line in (2, 5) or m.line > 6 for m in mutants(name))  # no docstring, assertion or message


def test_no_two_mutants_are_the_same_and_none_is_the_module(module):
    name = module("def f(a):\n    return a + 0 * 1, min(1, 1)\n")
    told = [m.change for m in mutants(name)]
    assert "a + 0 * 1 -> a" in told and len(told) == len(set(told)) + 1  # each 1 of min(1, 1) is another
    assert "0 * 1 -> 0" not in told  # to which it is folded anyway


TINY = """
class Box:
    def __init__(self, x):
        self.x = x

    @property
    def twice(self):
        return 2 * self.x


def steps(n, size=1):
    count = 0
    while count < n:
        count += size
    return count


def lean(a, b):
    return a - b


assert lean(9, 4) != 9


def idle(a):
    return a + 1
"""
GOOD = """
import pytest
from {name} import Box, lean, steps

def test_box():
    assert Box(3).twice == 6 and Box(5).twice == 10

def test_steps():
    assert steps(5) == 5 and steps(0) == 0 and steps(3, 2) == 4

def test_lean():
    assert lean(5, 2) == 3

def test_slow():
    while True:
        pass
"""
WEAK = """
from {name} import lean, steps

def test_steps():
    assert steps(4) >= 4

def test_lean():
    assert lean(0, 0) == 0
"""


@pytest.fixture
def told(module, tmp_path, monkeypatch):
    """told(tests) -> {change: killed} of the tiny module."""
    monkeypatch.setattr(teeth, "FAST", 1.0)
    name = module(TINY)

    def tell(tests):
        path = tmp_path / f"test_{abs(hash(tests))}.py"
        path.write_text(tests.format(name=name))
        changes = mutants(name)
        return {f"{m.function}: {m.change}": killed for m, killed in zip(changes, bite(changes, [path], jobs=2), strict=True)}

    return tell


def test_good_tests_kill_all_that_they_reach_even_endless_loops_and_defaults(told):
    fate = told(GOOD)
    lived = {name for name, killed in fate.items() if not killed}
    assert lived == {f"idle: {change}" for change in ("a + 1 -> a - 1", "a + 1 -> a", "a + 1 -> 1", "1 -> 2")}
    assert fate["steps: count += size -> count -= size"]  # never ends
    assert fate["Box.twice: 2 * self.x -> 2 / self.x"]


def test_weak_tests_let_mutants_live(told):
    fate = told(WEAK)
    assert not fate["lean: a - b -> a + b"] and not fate["Box.twice: 2 * self.x -> 2 / self.x"]
    assert fate["steps: count < n -> count >= n"] and not fate["steps: count < n -> count <= n"]
    assert fate["lean: a - b -> a"]  # the module says itself that it is not so: no import, no mutant


TALKS = """
import time

class Talks(Exception):
    def __str__(self):
        while time.process_time() < 3:
            pass
        return "at last"

def test_x():
    raise Talks
"""
FAILING = [
    ("def test_x():\n    assert False\n", "test_x fails though"),
    (TALKS, "test_x fails though"),  # in time, though its report comes late
    ("import {name}x", "cannot be collected"),
]


@pytest.mark.parametrize(("tests", "says"), FAILING)
def test_tests_that_fail_as_they_are_prove_nothing(told, tests, says):
    with pytest.raises(LabError, match=says):
        told(tests)


def test_a_mutant_that_changes_nothing_lives(module, tmp_path):
    """Else putting mutants in place would be what kills them."""
    name = module(TINY)
    lean = next(m for m in mutants(name) if m.change == "a - b -> a + b")
    same = replace(lean, new=ast.parse("a - b", mode="eval").body)
    path = tmp_path / "test_lean.py"
    path.write_text(f"from {name} import lean\ndef test_lean():\n    assert lean(5, 2) == 3\n")
    assert bite([same, lean], [path]) == [False, True]


# what is mutated

METHODS = discover()


def test_a_papers_change_is_what_its_slots_call_and_its_bases_do_not():
    own = {name for _, name in change(METHODS["fixpo"], METHODS["ppo"])}
    assert own == {"penalise_then_repair", "pull", "adapt", "repair", "give_up", "importance"}
    assert ("labkit.on_policy.family", "gae") in change(METHODS["a2c"], METHODS["reinforce"])  # called by normalised_gae
    assert {"clipped", "epochs", "minibatches"} == {name for _, name in change(METHODS["ppo"], METHODS["a2c"])}
    assert ("labkit.on_policy.family", "reward_to_go") in change(METHODS["reinforce"], None)


def test_functions_of_other_packages_are_not_followed():
    assert {module for module, _ in reached([ppo.improve, torch.relu], "labkit.on_policy")} == {"labkit.on_policy.family"}


@pytest.mark.parametrize("key", METHODS)
def test_every_paper_has_mutants_and_every_changed_slot_is_given_back(key):
    method = METHODS[key]
    given = [m.slot for m in of_paper(key, METHODS) if isinstance(m, Identity)]
    assert given == (changed(method, METHODS[method.paper.base]) if method.paper.base else [])
    assert len(of_paper(key, METHODS)) > len(given) or key == "policy_iteration"


# scores


def judged(held, seconds=1.0):
    return SimpleNamespace(held=held, seconds=seconds)


def test_mutants_that_live_are_put_to_a_held_claim(monkeypatch):
    """Here the claim is that a ratio of 1 is worth the advantage: the sign matters to it, the clip does not."""

    def check():
        one = torch.ones(1, 1)
        return judged("held" if ppo.surrogate(one, one, SimpleNamespace(eps=0.2 * one)) == 1 else "not held")

    monkeypatch.setattr(teeth, "check_of", lambda key: check)
    alive = [m for m in of_paper("ppo", METHODS) if getattr(m, "function", "") == "clipped"]
    monkeypatch.setattr(teeth, "latest", lambda key: judged("not held"))
    assert claimed("ppo", alive, jobs=2) is None
    monkeypatch.setattr(teeth, "latest", lambda key: judged("held"))
    held = claimed("ppo", alive, jobs=2)
    assert 0 < len(held) < len(alive)
    assert not any("-> return -torch" in line for line in held) and any("torch.minimum -> torch.maximum" in line for line in held)


def test_report_says_what_lives_and_what_the_claim_survives():
    lines = report([Score("labkit.x", 4, 3, ["x.py:1: f: a -> b"], None), Score("y", 2, 1, ["y.py:2: g: c -> d"], ["y.py:2: g: c -> d"])])
    assert "labkit.x       3  4     75.0%" in lines and "y              1  2     50.0%" in lines
    assert "  x.py:1: f: a -> b\n" in lines and lines.endswith("  y.py:2: g: c -> d  (and the claim is held)")


def test_unknown_papers_are_named():
    with pytest.raises(LabError, match="no paper 'nonsense'"):
        teeth.scores(["nonsense"])
