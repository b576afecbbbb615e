"""The house keeps its order: which room imports which, how large a file gets, what parts may touch."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import house_map
import pytest
import tiny

from llmspec.spec.shape import description, fields_of

PACKAGE = tiny.ROOT / "llmspec"
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = (
    {"core"},
    {"parts"},
    {"spec"},
    {"compiler"},
    {"backends"},
    {"model", "data", "runs"},
    {"forecast"},
    {"training", "decoding"},
    {"bench"},
    {"explain", "scaffold"},
    {"api"},
    {"render"},
    {"cli", "__main__"},
)
"""A room imports rooms of its own floor or below."""
HEAVY = {"tinygrad", "torch", "transformers"}
KINDS = (
    "positions",
    "attentions",
    "norms",
    "mlps",
    "inits",
    "tokenizers",
    "sources",
    "objectives",
    "optimizers",
    "schedules",
    "filters",
    "phases",
)


def floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, top_level: bool = False) -> Iterator[str]:
    """Modules that a file imports; with `top_level` only those imported when the file is."""
    tree = ast.parse(path.read_text("utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # what is imported from a package may be a module of it
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else node.module


def module(path: Path) -> str:
    """A file's name as a module."""
    parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}
DOORWAYS = {"llmspec", "llmspec.cli", "llmspec.cli.app", "llmspec.__main__"}
"""Modules that stand above all rooms; the package itself among them, since it opens every room."""


def arrows(path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it."""
    return {found for found in imports(path) if found in MODULES and found != module(path)}


def rooms_imported() -> set[tuple[str, str]]:
    return {
        (room(path), room(MODULES[found]))
        for path in FILES
        for found in arrows(path)
        if module(path) not in DOORWAYS and found not in DOORWAYS and room(path) != room(MODULES[found])
    }


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names that lead back to the first of them, or []."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for below in sorted(graph.get(name, ())):
            if found := walk(below, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    if module(path) == "llmspec":
        return
    for found in imports(path):
        assert found != "llmspec" or module(path) in DOORWAYS, f"{path.name} imports the package itself, and so all"
        if found.startswith("llmspec.") and found.split(".")[1] in {room(p) for p in FILES}:
            assert floor(found.split(".")[1]) <= floor(room(path)), f"{path.name} imports {found}"


def test_rooms_of_one_floor_do_not_import_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for above, below in rooms_imported():
        graph.setdefault(above, set()).add(below)
    assert not circle(graph)


def test_files_do_not_import_each_other_in_a_circle() -> None:
    assert not circle({module(path): arrows(path) for path in FILES})


def test_the_map_is_that_of_the_house() -> None:
    """docs/MAP.md is made anew by `python tests/house_map.py > docs/MAP.md`."""
    assert (tiny.ROOT / "docs" / "MAP.md").read_text("utf-8") == house_map.written(FLOORS)
    for path in FILES:
        assert house_map.sentence(path) or path.name in ("__init__.py", "__main__.py"), f"{path} says nothing of itself"


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if room(p) in ("core", "parts", "spec", "compiler")],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_nothing_heavy_up_to_the_compiler(path: Path) -> None:
    assert not HEAVY & {m.split(".")[0] for m in imports(path)}
    assert "numpy" not in {m.split(".")[0] for m in imports(path, top_level=True)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_is_one_file_named_by_its_value(kind: str) -> None:
    table = importlib.import_module(f"llmspec.parts.{kind}").TABLE
    for name, part in table.items():
        assert part.__module__ == f"llmspec.parts.{kind}.{name}"
        if kind != "filters":
            assert part.model_fields["kind"].default == name


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_is_described(kind: str) -> None:
    for name, part in importlib.import_module(f"llmspec.parts.{kind}").TABLE.items():
        assert part.__doc__, name
        for key in fields_of(part):
            assert key == "kind" or description(part, key), f"{name}.{key} has no docstring"


def test_importing_the_compiler_stays_light() -> None:
    code = (
        "import llmspec, llmspec.compiler, llmspec.spec, sys;"
        "print([m for m in ('tinygrad', 'numpy', 'tokenizers', 'safetensors') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.ROOT, check=True)
    assert out.stdout.strip() == "[]"


def test_three_doorways_print_the_same_help() -> None:
    import shutil

    env = {"COLUMNS": "80", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(tiny.ROOT), "NO_COLOR": "1"}
    doors = [[sys.executable, "-m", "llmspec", "--help"], [sys.executable, "cli.py", "--help"]]
    script = Path(sys.executable).with_name("llmspec")
    if script.exists() or shutil.which("llmspec"):
        doors.append([str(script if script.exists() else shutil.which("llmspec")), "--help"])
    said = [subprocess.run(d, capture_output=True, text=True, cwd=tiny.ROOT, env=env, check=True).stdout for d in doors]
    assert said[0].strip() and all(s == said[0] for s in said)


def test_help_answers_at_once() -> None:
    """Processor seconds, since a busy machine says nothing about the program."""
    import resource

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def seconds() -> float:
        before = spent()
        subprocess.run(tiny.command("--help"), capture_output=True, cwd=tiny.ROOT, check=True)
        return spent() - before

    assert min(seconds() for _ in range(5)) < 0.5
