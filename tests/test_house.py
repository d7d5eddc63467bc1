"""The map of the house in ``docs/contributing.md`` is true: imports point down, and the rooms are small."""

import ast
from pathlib import Path

import pytest

import gausskl

PACKAGE = Path(gausskl.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}

# A room may import what stands before it.
ROOMS = [
    "_spreads",
    "_checks",
    "_arrays",
    "_formulas",
    "_form",
    "gaussian",
    "_diagnosis",
    "_generic",
    "_interop",
    "_fast.contract",
    "_fast.leaves",
    "_fast.terms",
    "_fast.by_formula",
    "_fast.batch",
    "_fast.autograd",
    "_fast.cpu.threads",
    "_fast.cpu.disk_cache",
    "_fast.cpu.simd",
    "_fast.cpu.compiler",
    "_fast.cpu.leaf",
    "_fast.cpu.diagonal",
    "_fast.cpu.dense",
    "_fast.cpu.low_rank",
    "_fast.cpu.torch",
    "_fast.gpu",
    "_plan",
    "divergence",
    "_command",
    "__main__",
]
# What has to do without whom, though they stand in this order.
APART = [
    ("_fast", "gaussian"),
    ("_fast", "_generic"),
    ("_fast", "_interop"),
    ("_fast.gpu", "_fast.cpu"),
    ("_fast.cpu", "_fast.gpu"),
]
# A method of Gaussian, which imports it when it is called.
UPWARDS = {("gaussian", "_interop.objects")}
LINES, A_DOZEN = 300, 12


def imports(name):
    """Modules of this package that a module imports, wherever in it; not for its annotations alone."""
    folder = name.split(".")[:-1]
    for node in statements(ast.parse(MODULES[name].read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = folder[: len(folder) + 1 - node.level] + (node.module or "").split(".") * bool(node.module)
        for alias in node.names:
            whole = ".".join([*base, alias.name])
            found = whole if whole in MODULES else ".".join(base)
            if found in MODULES:
                yield found


def statements(tree):
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from statements(node)


def is_in(name, room):
    return name == room or name.startswith(f"{room}.")


def floor(name):
    """The place of a module's room in the order."""
    return max((k for k, room in enumerate(ROOMS) if is_in(name, room)), default=None)


GRAPH = {name: set(imports(name)) for name in MODULES if not name.endswith("__init__")}


@pytest.mark.parametrize("name", GRAPH)
def test_a_module_stands_in_a_room_and_imports_what_stands_before_it(name):
    assert floor(name) is not None
    above = {other for other in GRAPH[name] if floor(other) > floor(name)} - {b for a, b in UPWARDS if a == name}
    assert not above
    assert not [other for other in GRAPH[name] for a, b in APART if is_in(name, a) and is_in(other, b)]


def test_nothing_is_imported_in_a_circle():
    seen, open_ = set(), []

    def visit(name):
        assert name not in open_, " -> ".join([*open_, name])
        if name not in seen:
            seen.add(name)
            open_.append(name)
            for other in GRAPH[name] - {b for a, b in UPWARDS if a == name}:
                visit(other)
            open_.pop()

    for name in GRAPH:
        visit(name)


@pytest.mark.parametrize("path", MODULES.values(), ids=list(MODULES))
def test_a_module_is_short(path):
    assert len(path.read_text().splitlines()) <= LINES


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES.values()}), ids=lambda folder: folder.name)
def test_a_folder_is_small_and_says_what_lives_in_it(folder):
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= A_DOZEN
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert 0 < len(doc.splitlines()) <= 10


def test_the_rooms_are_all_there():
    """A room that is misspelt would let everything pass."""
    assert [room for room in ROOMS if not any(is_in(name, room) for name in MODULES)] == []
    assert {(a, b) for a in GRAPH for b in GRAPH[a]} >= UPWARDS
