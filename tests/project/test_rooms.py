"""core/training and core/evaluation are rooms in an order: no crowd, no circle, no back edge."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_FILES = 15

ROOMS = {
    "core/training": (
        "loop",
        "common",
        "base",
        "gistnet",
        "index_keys",
        "lensnet",
        "lora",
        "joint",
    ),
    "core/evaluation": ("sessions", "contenders", "tasks", "results", "runner"),
}
"""A room may import from those before it, never from those after it."""


def modules(package):
    """Paths of a package's modules by their import names."""
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = "megacontext." + ".".join(parts)
        yield name.removesuffix(".__init__"), path


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(node):
    """Full names that a module imports, wherever it does so, but not for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif not is_for_types(child):
            yield from imports(child)


def import_graph(package):
    """Modules of a package by the module that imports them."""
    known = dict(modules(package))
    graph = {}
    for name, path in known.items():
        targets = set()
        for full in imports(ast.parse(path.read_text())):
            targets |= {t for t in (full, full.rpartition(".")[0]) if t in known and t != name}
        graph[name] = targets
    return graph


def circle(graph):
    """The modules of one circle of imports, or an empty list."""
    done = set()

    def visit(name, trail):
        if name in trail:
            return trail[trail.index(name) :]
        if name in done:
            return []
        for target in sorted(graph[name]):
            if ring := visit(target, [*trail, name]):
                return ring
        done.add(name)
        return []

    for name in sorted(graph):
        if ring := visit(name, []):
            return ring
    return []


def back_edges(package, graph):
    """Imports of a room by a room that comes before it."""
    prefix = "megacontext." + package.replace("/", ".") + "."
    order = {room: number for number, room in enumerate(ROOMS[package])}

    def room_of(name):
        return name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else ""

    for name, targets in graph.items():
        for target in sorted(targets):
            here, there = room_of(name), room_of(target)
            if here in order and there in order and order[there] > order[here]:
                yield f"{name} -> {target}"


@pytest.mark.parametrize("package", ROOMS)
def test_no_folder_is_crowded(package):
    folders = {path.parent for _, path in modules(package)}
    crowds = {f: len(list(f.glob("*.py"))) for f in folders}
    assert not {f: n for f, n in crowds.items() if n > MOST_FILES}


@pytest.mark.parametrize("package", ROOMS)
def test_every_folder_has_its_place_in_the_order(package):
    folders = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert folders == set(ROOMS[package])


@pytest.mark.parametrize("package", ROOMS)
def test_no_module_imports_itself_by_a_circle(package):
    assert circle(import_graph(package)) == []


@pytest.mark.parametrize("package", ROOMS)
def test_no_room_imports_from_one_after_it(package):
    assert list(back_edges(package, import_graph(package))) == []


def test_circles_and_back_edges_are_seen():
    a, b = "megacontext.core.evaluation.tasks.a", "megacontext.core.evaluation.contenders.b"
    assert circle({a: {b}, b: {a}}) in ([a, b], [b, a])
    assert circle({a: {b}, b: set()}) == []
    assert list(back_edges("core/evaluation", {b: {a}, a: {b}})) == [f"{b} -> {a}"]
