"""Mutants: a module with one thing wrong, made from its syntax tree by rules, and loaded in place of the module.

The rules are those of DeMillo, Lipton and Sayward (1978) as far as they suit tensor code: operators and their operands,
signs, comparisons, numbers, opposite names (min and max), order of arguments, calls and statements left out, loops cut
short, conditions turned round. Tests that still pass when a mutant stands in for the module do not look at what it changes.
"""
import ast
import copy
import inspect
import sys
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from operator import attrgetter
from pathlib import Path
from types import CodeType
from typing import Any

from labkit.errors import LabError

Rule = Callable[[ast.AST, ast.FunctionDef], Iterator[ast.AST]]


@dataclass(frozen=True)
class Mutant:
    """One change to a module: in its top-level statement number `statement`, node number `node` of the walk becomes `new`."""

    module: str
    function: str  # qualified name
    span: tuple[int, int]  # the function's first and last line
    line: int
    kind: str
    change: str  # in a line: the code before and after
    statement: int
    node: int
    new: ast.AST

    def __str__(self) -> str:
        return f"{self.module.replace('.', '/')}.py:{self.line}: {self.function}: {self.change}"

    def tree(self) -> ast.Module:
        """The syntax tree of the mutated module."""
        tree = ast.parse(source_of(self.module))
        tree.body[self.statement] = _put(tree.body[self.statement], self.node, self.new)
        return ast.fix_missing_locations(tree)

    def install(self) -> None:
        """Make the function in this process the mutant, for all who have imported it. Nothing is written to disk: meant for a fork.

        ImportError where the mutated module cannot even be imported.
        """
        path, tree = path_of(self.module), self.tree()

        class Loader(SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return self.source_to_code(tree, str(path))  # type: ignore[arg-type]

        name = f"{self.module}_mutant"
        spec = spec_from_file_location(name, path, loader=Loader(name, str(path)))
        assert spec and spec.loader
        sys.modules[name] = twin = module_from_spec(spec)
        try:
            spec.loader.exec_module(twin)
        except Exception as error:
            raise ImportError(f"{self} breaks the import") from error
        old, new = (_plain(attrgetter(self.function)(m)) for m in (import_module(self.module), twin))
        for part in ("__code__", "__defaults__", "__kwdefaults__"):
            setattr(old, part, getattr(new, part))


@cache
def source_of(module: str) -> str:
    """A module's text, as it was when first asked for: a mutant fits that one."""
    return path_of(module).read_text(encoding="utf-8")


@cache
def path_of(module: str) -> Path:
    """The file of a module. LabError where there is none."""
    spec = find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise LabError(f"There is no Python file for {module}; name a module such as labkit.divergence.")
    return Path(spec.origin)


def functions(tree: ast.Module) -> Iterator[tuple[str, int, ast.FunctionDef]]:
    """Every function and method: qualified name, number of the top-level statement it stands in, and node."""
    for i, statement in enumerate(tree.body):
        inside = statement.body if isinstance(statement, ast.ClassDef) else [statement]
        prefix = f"{statement.name}." if isinstance(statement, ast.ClassDef) else ""
        yield from ((prefix + node.name, i, node) for node in inside if isinstance(node, ast.FunctionDef))


def methods(module: str) -> set[str]:
    """The names of all methods in a module's classes."""
    return {name for name, _, _ in functions(ast.parse(source_of(module))) if "." in name}


def mutants(module: str, names: Container[str] | None = None) -> list[Mutant]:
    """All mutants of a module's functions, or of those called `names`. None has the bytecode of its function or of another mutant."""
    return [mutant for mutant in _all(module) if names is None or mutant.function in names]


@cache
def _all(module: str) -> list[Mutant]:
    tree = ast.parse(source_of(module))
    return [m for name, i, node in functions(tree) for m in _of_function(module, name, tree.body[i], i, node)]


def _of_function(module: str, name: str, statement: ast.stmt, i: int, function: ast.FunctionDef) -> Iterator[Mutant]:
    span = min([function.lineno, *(node.lineno for node in function.decorator_list)]), function.end_lineno or function.lineno
    place = {id(node): j for j, node in enumerate(ast.walk(statement))}
    seen = {_bytecode(statement)}
    for node in _code(function):
        for rule in RULES:
            for new in rule(node, function):
                code = _bytecode(_put(statement, place[id(node)], new))
                if code not in seen:
                    seen.add(code)
                    yield Mutant(module, name, span, _line(node), rule.__name__, _told(node, new), i, place[id(node)], new)


def _put(statement: ast.stmt, number: int, new: ast.AST) -> Any:
    """A copy of the statement with another node in place of that number."""
    if number == 0:
        return new
    twin = copy.deepcopy(statement)
    old = next(node for j, node in enumerate(ast.walk(twin)) if j == number)
    for parent in ast.walk(twin):
        for field, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, field, new)
            elif isinstance(value, list):
                value[:] = [new if item is old else item for item in value]
    return twin


def _bytecode(statement: ast.stmt) -> tuple[Any, ...]:
    """What a statement does, without line numbers."""
    tree = ast.fix_missing_locations(ast.Module([copy.deepcopy(statement)], []))

    def essence(code: CodeType) -> tuple[Any, ...]:
        consts = tuple(essence(c) if isinstance(c, CodeType) else (type(c), repr(c)) for c in code.co_consts)
        return code.co_code, consts, code.co_names, code.co_varnames, code.co_freevars

    return essence(InspectLoader.source_to_code(tree))  # type: ignore[arg-type]


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """What of a function can go wrong: all but docstrings, annotations, decorators, assertions and the messages of errors."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            quiet = isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr)
            if isinstance(child, ast.AST) and not quiet and not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
                if isinstance(child, ast.expr | ast.stmt):
                    yield child
                yield from _code(child)


def _plain(piece: Any) -> Any:
    """The function under decorators."""
    return inspect.unwrap(getattr(piece, "fget", piece))


def _line(node: ast.AST) -> int:
    return getattr(node, "lineno", 0)


def _told(old: ast.AST, new: ast.AST) -> str:
    before, after = (ast.unparse(ast.fix_missing_locations(copy.deepcopy(x))).split("\n")[0] for x in (old, new))
    return f"{before} -> {after}"


# ---- the rules: each yields what could stand in a node's place ------------------------------------------------------

OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_PAIRS = ("min max", "amin amax", "argmin argmax", "minimum maximum", "clamp_min clamp_max", "sum mean", "any all", "cumsum cumprod",
          "zeros ones", "zeros_like ones_like", "new_zeros new_ones", "floor ceil", "sin cos")  # fmt: skip
OPPOSITES = {a: b for pair in _PAIRS for a, b in (pair.split(), reversed(pair.split()))}
ALIKE = {"maximum", "minimum", "max", "min", "zip", "isinstance", "cdist", "type", "super"}  # in any order the same, or no order else
UNARY = {"abs", "clamp", "clamp_max", "clamp_min", "clip", "clone", "cumprod", "cumsum", "detach", "diff", "exp", "expm1", "log",
         "log1p", "log_softmax", "relu", "softmax", "sort", "sqrt", "square", "tanh"}  # fmt: skip
SMALL, LARGE = 1e-3, 1e6  # numbers beyond these guard against something; as 1 they guard too much


def arithmetic(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """a + b -> a - b, and the like."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        yield ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)


def term(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """a + b -> a, or b; of products and of conditions as well."""
    if isinstance(node, ast.BinOp):
        yield from (node.left, node.right)
    if isinstance(node, ast.BoolOp):
        for i in range(len(node.values)):
            rest = node.values[:i] + node.values[i + 1 :]
            yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)


def sign(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """-x -> x, ~x -> x; return x -> return -x where tensors are returned."""
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.Return) and node.value and "Tensor" in ast.unparse(function.returns or ast.Constant("")):
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        for i, part in enumerate(parts):
            turned = [*parts[:i], ast.UnaryOp(ast.USub(), part), *parts[i + 1 :]]
            yield ast.Return(turned[0] if len(turned) == 1 else ast.Tuple(turned, ast.Load()))


def comparison(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """a < b -> a <= b, a >= b."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                yield ast.Compare(node.left, [*node.ops[:i], other(), *node.ops[i + 1 :]], node.comparators)


def number(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """n -> n + 1; x -> 2 x, or 1 where x is a guard; True -> False."""
    if isinstance(node, ast.Constant):
        x = node.value
        if isinstance(x, bool):
            yield ast.Constant(not x)
        elif isinstance(x, int):
            yield ast.Constant(x + 1)
        elif isinstance(x, float):
            yield ast.Constant(1.0 if x == 0 or not SMALL <= x <= LARGE else 2 * x)


def opposite(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """min -> max, sum -> mean, any -> all ..."""
    if isinstance(node, ast.Attribute) and node.attr in OPPOSITES:
        yield ast.Attribute(node.value, OPPOSITES[node.attr], node.ctx)
    if isinstance(node, ast.Name) and node.id in OPPOSITES and isinstance(node.ctx, ast.Load):
        yield ast.Name(OPPOSITES[node.id], node.ctx)


def order(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """f(a, b, c) -> f(a, c, b)."""
    if isinstance(node, ast.Call) and len(node.args) > 1 and _name(node.func) not in ALIKE:
        *first, a, b = node.args
        if not isinstance(a, ast.Starred) and not isinstance(b, ast.Starred):
            yield ast.Call(node.func, [*first, b, a], node.keywords)


def call(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """x.detach() -> x; the clamp, the square or the logarithm left out."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in UNARY:
        of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "np", "math")
        if not of_torch or node.args:
            yield node.args[0] if of_torch else node.func.value


def condition(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """if a -> if not a; of choices, loops and comprehensions too."""
    tests = {ast.If: "test", ast.IfExp: "test", ast.While: "test"}
    if type(node) in tests and not isinstance(node.test, ast.Constant):  # type: ignore[attr-defined]
        twin = copy.copy(node)
        twin.test = ast.UnaryOp(ast.Not(), node.test)  # type: ignore[attr-defined]
        yield twin


def statement(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """A call, or a change of something that is seen elsewhere, left out."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    outside = targets and all(isinstance(t, ast.Attribute | ast.Subscript) or isinstance(node, ast.AugAssign) for t in targets)
    if outside or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield ast.Pass()


def loop(node: ast.AST, function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Only the first turn of a loop."""
    if isinstance(node, ast.For):
        yield ast.copy_location(ast.For(node.target, node.iter, [*node.body, ast.Break()], node.orelse), node)


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""


RULES: tuple[Rule, ...] = (arithmetic, term, sign, comparison, number, opposite, order, call, condition, statement, loop)
