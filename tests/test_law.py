"""The law of the formulas, read from their syntax tree.

They decide on structure (shapes, kinds, dtypes, None) and never on values, name no array library, walk over no
elements, and are handed their namespace.
"""

import ast
from pathlib import Path

import pytest

import gausskl

SOURCES = [f"_formulas/{name}.py" for name in ("diagonal", "mixed", "exact", "dense", "low_rank")]
LIBRARIES = {"numpy", "np", "torch", "jax", "jnp", "cupy", "cp", "dask", "da", "tensorflow", "tf", "numba", "scipy"}

STRUCTURAL = {"bits", "dtype", "keyword", "kind", "kind_p", "kind_q", "ndim", "packing", "shape", "smallest_normal"}
NUMBERS = {"abs", "bool", "float", "int", "len", "max", "min", "range", "round", "isinstance"}  # of structure
WALKS = {"all", "any", "iter", "list", "map", "next", "set", "sorted", "sum", "tuple"}
READS = {"item", "tolist", "numpy", "compute", "__array__", "__bool__", "__float__", "__int__"}
FUNCTIONS = (ast.FunctionDef, ast.Lambda)
LOOPS = (ast.For, ast.comprehension)


def violations(source):
    """Return what a source does against the law, as sentences."""
    tree = ast.parse(source)
    return sorted({*_names(tree), *_conduct(tree, _Scope(tree), frozenset())})


def _names(tree):
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        words = []
        if isinstance(node, ast.Name):
            words = [node.id]
        elif isinstance(node, ast.alias):
            words = [*node.name.split("."), node.asname]
        elif isinstance(node, ast.ImportFrom):
            words = (node.module or "").split(".")
        elif isinstance(node, ast.Attribute):
            words = [node.attr]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            words = node.value.replace(".", " ").split()
        for word in LIBRARIES.intersection(words):
            yield f"line {_line(node)}: names the library {word}"


class _Scope:
    """What the names of a function, or of the module, are bound to."""

    def __init__(self, node, outer=None):
        self.outer, self.bound, self.sequences = outer, {}, set()
        arguments = getattr(node, "args", None)
        if arguments is not None:
            for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
                self.bound[argument.arg] = [_annotated(argument)]
                if _says(argument.annotation, ("list", "tuple", "dict")):
                    self.sequences.add(argument.arg)
            if arguments.vararg:
                self.bound[arguments.vararg.arg] = [None]
                self.sequences.add(arguments.vararg.arg)
        self.returns_list = {
            child.name
            for child in ast.walk(node)
            if isinstance(child, ast.FunctionDef) and _says(child.returns, ("list", "tuple"))
        }
        for child in _own(node):
            if isinstance(child, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
                targets = child.targets if isinstance(child, ast.Assign) else [child.target]
                for target in targets:
                    self._bind(target, child.value)
            elif isinstance(child, LOOPS):
                self._bind_loop(child.target, child.iter)
            elif isinstance(child, ast.NamedExpr):
                self._bind(child.target, child.value)

    def _bind(self, target, value):
        if isinstance(target, ast.Name):
            self.bound.setdefault(target.id, []).append(value)
            if self._is_list(value):
                self.sequences.add(target.id)
        else:
            pairs = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
            values = (
                value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(pairs) else [None] * len(pairs)
            )
            for part, of in zip(pairs, values, strict=True):
                self._bind(part, of)

    def _bind_loop(self, target, over):
        call = over.func.id if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) else ""
        if call == "range":
            self._bind(target, ast.Constant(0))
        elif call == "enumerate" and isinstance(target, ast.Tuple):
            self._bind(target.elts[0], ast.Constant(0))
            self._bind(target.elts[1], None)
        else:
            self._bind(target, None)

    def _is_list(self, value):
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
            return self.finds(value.func.id, "returns_list")
        return isinstance(value, (ast.List, ast.Tuple, ast.Dict, ast.ListComp, ast.DictComp))

    def finds(self, name, kind):
        return name in getattr(self, kind) or bool(self.outer and self.outer.finds(name, kind))

    def values(self, name):
        return self.bound[name] if name in self.bound else self.outer.values(name) if self.outer else [None]

    def is_structural(self, node):
        """Whether an expression depends on shapes, kinds and dtypes alone."""
        if node is None:
            return False
        if isinstance(node, ast.Constant):
            return True
        if isinstance(node, ast.Name):
            values = self.values(node.id)
            return all(value is not None and node is not value and self.is_structural(value) for value in values)
        if isinstance(node, ast.Attribute):
            return node.attr in STRUCTURAL or self.is_structural(node.value)
        if isinstance(node, ast.Compare) and all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return True
        if isinstance(node, ast.Call):
            return self._call_is_structural(node)
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        known = (
            ast.BinOp,
            ast.BoolOp,
            ast.Compare,
            ast.Dict,
            ast.List,
            ast.Slice,
            ast.Subscript,
            ast.Tuple,
            ast.UnaryOp,
        )
        return isinstance(node, known) and all(map(self.is_structural, parts))

    def _call_is_structural(self, node):
        function = node.func
        if isinstance(function, ast.Name):
            if function.id == "len":
                return True
            return function.id in NUMBERS and all(map(self.is_structural, node.args))
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if function.value.id == "xp":
                return function.attr in ("finfo", "isdtype")
            return function.value.id == "math" and all(map(self.is_structural, node.args))
        return False

    def is_sequence(self, node):
        """Whether an expression is a range, or a list or tuple of arrays; never an array."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "range":
                return all(map(self.is_structural, node.args))
            if node.func.id in ("enumerate", "zip", "reversed"):
                return all(map(self.is_sequence, node.args))
            return self.finds(node.func.id, "returns_list")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return node.func.attr in ("items", "keys", "values") and self.is_sequence(node.func.value)
        if isinstance(node, ast.Subscript):
            return isinstance(node.slice, ast.Slice) and self.is_sequence(node.value)
        if isinstance(node, ast.Name):
            return self.finds(node.id, "sequences")
        return self._is_list(node) or self.is_structural(node)


def _conduct(node, scope, spaces):
    """Walk the tree; ``spaces`` holds "xp" where a function around has been handed it."""
    for child in ast.iter_child_nodes(node):
        inner, handed = scope, spaces
        if isinstance(child, FUNCTIONS):
            inner = _Scope(child, scope)
            if any(argument.arg == "xp" for argument in child.args.kwonlyargs):
                handed = spaces | {"xp"}
            if any(argument.arg == "xp" for argument in [*child.args.posonlyargs, *child.args.args]):
                yield f"line {_line(child)}: takes xp by position"
        if (wrong := _wrong(child, inner, handed)) is not None:
            yield f"line {_line(child)}: {wrong}"
        yield from _conduct(child, inner, handed)


def _wrong(node, scope, spaces):
    if isinstance(node, ast.While):
        return "while"
    if isinstance(node, (ast.Try, ast.Match, ast.With, ast.Global, ast.Nonlocal)):
        return type(node).__name__.lower()
    if isinstance(node, (ast.If, ast.IfExp, ast.Assert)) and not scope.is_structural(node.test):
        return f"decides on {ast.unparse(node.test)}"
    if isinstance(node, ast.comprehension):
        bad = [test for test in node.ifs if not scope.is_structural(test)]
        if bad:
            return f"decides on {ast.unparse(bad[0])}"
    if isinstance(node, ast.BoolOp) or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        return None if scope.is_structural(node) else f"decides on {ast.unparse(node)}"
    if isinstance(node, ast.Compare):
        needs_truth = len(node.ops) > 1 or isinstance(node.ops[0], (ast.In, ast.NotIn))
        return f"decides on {ast.unparse(node)}" if needs_truth and not scope.is_structural(node) else None
    if isinstance(node, LOOPS) and not scope.is_sequence(node.iter):
        return f"walks over {ast.unparse(node.iter)}"
    if isinstance(node, ast.Attribute) and node.attr in READS:
        return f"reads a value with .{node.attr}"
    if isinstance(node, ast.Name) and node.id == "xp" and "xp" not in spaces:
        return "uses an xp that it was not handed"
    if isinstance(node, ast.Call):
        return _wrong_call(node, scope)
    return None


def _wrong_call(node, scope):
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    of_math = (
        isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "math"
    )
    if (name in NUMBERS - {"abs", "len"} or of_math) and not all(map(scope.is_structural, node.args)):
        return f"makes a number of {ast.unparse(node)}"
    if name in WALKS and not all(map(scope.is_sequence, node.args)):
        return f"walks over {ast.unparse(node)}"
    return None


def _own(node):
    """Walk over a function's nodes, without those of the functions inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, FUNCTIONS):
            yield from _own(child)


def _annotated(argument):
    plain = _says(argument.annotation, ("int", "str", "bool", "float"))
    return ast.Constant(0) if plain else None


def _says(annotation, names):
    return annotation is not None and ast.unparse(annotation).split("[")[0].split(" ")[0] in names


def _line(node):
    return getattr(node, "lineno", None) or getattr(getattr(node, "iter", None), "lineno", 0)


# ---- the promises ----


@pytest.mark.parametrize("name", SOURCES)
def test_the_formulas_keep_the_law(name):
    assert violations((Path(gausskl.__file__).parent / name).read_text()) == []


AGAINST = {
    "a branch on a value": "if x > 0:\n    x = -x",
    "a branch on a reduced value": "if xp.any(x < 0):\n    x = -x",
    "a branch on a derived value": "small = x.sum() < 1\nif small:\n    x = -x",
    "a branch on an element": "if x[0]:\n    x = -x",
    "a conditional expression": "x = x if x > 0 else -x",
    "and": "y = (x > 0) and (y > 0)",
    "or": "y = x or y",
    "not": "y = not x",
    "a chain": "y = 0 < x < 1",
    "in": "y = 0 in x",
    "assert": "assert x.all()",
    "while": "while x.ndim > 1:\n    x = x[0]",
    "match": "match x:\n    case 0:\n        pass",
    "try": "try:\n    x = 1 / x\nexcept ZeroDivisionError:\n    pass",
    "a loop over an array": "for row in x:\n    y = y + row",
    "a loop over rows": "for row in x[1:]:\n    y = y + row",
    "a loop over counted rows": "for i, row in enumerate(x):\n    y = y + row",
    "a loop as long as a value": "for i in range(int(x)):\n    y = y + 1",
    "a comprehension": "y = xp.stack([row for row in x])",
    "a filtered comprehension": "y = [i for i in range(3) if x[i] > 0]",
    "a built-in sum": "y = sum(x)",
    "a list": "y = list(x)",
    "item": "y = x.item()",
    "float": "y = float(x)",
    "int": "y = int(x.sum())",
    "bool": "y = bool(x)",
    "math": "y = math.log(x)",
    "a built-in maximum": "y = max(x, y)",
    "a library": "import numpy",
    "a library by its nickname": "y = np.exp(x)",
    "part of a library": "from jax.numpy import exp",
    "a library in a string": "y = xp.__name__ == 'torch'",
}

WITHIN = {
    "a shape": "if x.shape[-1] == y.shape[-1]:\n    x = -x",
    "a size": "size = x.shape[-1]\nif size > 1 and not y.ndim:\n    x = -x",
    "a kind": "if side.kind == 'std':\n    x = -x",
    "an option that is not there": "y = x if y is None else y",
    "a dtype": "y = 1 if xp.finfo(x.dtype).bits == 64 else 2",
    "a selection": "y = xp.where((x > 0) & ~(y > 0), x, y)",
    "a loop by count": "for i in range(x.shape[-1]):\n    if i < 3:\n        y = y + x[..., i]",
    "a loop over parts": "for part in [x, y]:\n    y = y + part",
    "a number of a dtype": "y = math.log(float(xp.finfo(x.dtype).smallest_normal))",
}


def function(body):
    indented = "\n".join(f"    {line}" for line in body.splitlines())
    return f"def formula(x, y, side, *, xp):\n{indented}\n"


@pytest.mark.parametrize("case", AGAINST)
def test_the_law_finds(case):
    assert violations(function(AGAINST[case])) != []


@pytest.mark.parametrize("case", WITHIN)
def test_the_law_lets_pass(case):
    assert violations(function(WITHIN[case])) == []


def test_the_namespace_is_handed_over_by_keyword():
    assert violations("def f(x, *, xp):\n    def g(y):\n        return xp.exp(y)\n    return g(x)\n") == []
    assert violations("def f(x, xp):\n    return x\n") == ["line 1: takes xp by position"]
    assert violations("def f(x):\n    return xp.exp(x)\n") == ["line 2: uses an xp that it was not handed"]
    assert violations("f = lambda x: xp.exp(x)\n") == ["line 1: uses an xp that it was not handed"]
