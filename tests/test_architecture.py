"""The architecture holds: which package imports which, how long files and functions get, what parts may touch."""

from __future__ import annotations

import ast
import importlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import architecture_map
import pytest
import tiny

from llmspec.spec.shape import description, fields_of

PACKAGE = tiny.ROOT / "llmspec"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((tiny.ROOT / "tests").rglob("*.py"))
LAYERS = (
    {"core"},
    {"parts"},
    {"spec"},
    {"compiler"},
    {"backends"},
    {"model", "data", "runs"},
    {"formats"},
    {"forecast"},
    {"training", "decoding"},
    {"bench", "exchange"},
    {"explain", "scaffold"},
    {"api", "api_runs"},
    {"render"},
    {"cli"},
    {"llmspec", "__main__"},
)
"""Packages, lowest first: one imports packages of its own layer or below. `llmspec` is the package's own doorway."""
LINES, FUNCTION_LINES = 400, 60
"""How long a file and a function may be."""
HEAVY = {"tinygrad", "torch", "transformers"}
TENSORS = "parts/ops.py"
"""The one file up to the compiler that names a tensor library, for the type checker alone."""
KINDS = sorted(path.parent.name for path in (PACKAGE / "parts").glob("*/__init__.py"))


def layer(package: str) -> int:
    return next(i for i, packages in enumerate(LAYERS) if package in packages)


def package(name: str) -> str:
    """The package that a module belongs to, as LAYERS calls it."""
    return name.split(".")[1] if "." in name else name


def module(path: Path) -> str:
    """A file's name as a module."""
    parts = (PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def imports(text: str, top_level: bool = False, checked: bool = True) -> Iterator[str]:
    """Modules that a text imports; with `top_level` only those imported when the text is.

    Without `checked`, those that only a type checker imports are left out.
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not checked and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in tree.body if top_level else list(ast.walk(tree)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, "imports name the whole way to a module"
            for alias in node.names:  # what is imported from a package may be a module of it
                below = f"{node.module}.{alias.name}"
                yield below if below in MODULES else node.module


def arrows(name: str, text: str) -> set[str]:
    """Modules of ours that a module with this text imports, wherever in it."""
    return {found for found in imports(text) if found in MODULES and found != name}


def wrong_way(name: str, text: str) -> list[str]:
    """Modules of a higher layer that a module imports."""
    return sorted(found for found in arrows(name, text) if layer(package(found)) > layer(package(name)))


def package_arrows(texts: dict[str, str]) -> dict[str, set[str]]:
    """Package -> other packages that it imports."""
    graph: dict[str, set[str]] = {}
    for name, text in texts.items():
        below = {package(found) for found in arrows(name, text)} - {package(name)}
        graph.setdefault(package(name), set()).update(below)
    return graph


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


def texts() -> dict[str, str]:
    return {name: path.read_text("utf-8") for name, path in MODULES.items()}


def long_functions(text: str) -> list[str]:
    """Functions of more than FUNCTION_LINES lines, decorators not counted."""
    return [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]


def test_imports_go_one_way() -> None:
    found = {name: wrong for name, text in texts().items() if (wrong := wrong_way(name, text))}
    assert not found


def test_packages_do_not_import_each_other_in_a_circle() -> None:
    assert not circle(package_arrows(texts()))


def test_files_do_not_import_each_other_in_a_circle() -> None:
    assert not circle({name: arrows(name, text) for name, text in texts().items()})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llmspec.core.units", "import llmspec"),
        ("llmspec.core.units", "def f():\n    import llmspec.spec.load"),
        ("llmspec.core.units", "from llmspec import parts"),
        ("llmspec.core.units", "from llmspec import load_spec"),
        ("llmspec.parts.base", "from llmspec.spec import shape as s"),
        ("llmspec.render.live", "if True:\n    from llmspec.cli.run import again"),
        ("llmspec.cli.run", "import llmspec as everything"),
    ],
)
def test_an_import_of_a_higher_layer_is_seen(name: str, text: str) -> None:
    assert wrong_way(name, text)


def test_arrows_both_ways_within_a_layer_are_seen() -> None:
    both = {"llmspec.data.tokens": "import llmspec.runs.files", "llmspec.runs.run": "from llmspec.data import tokens"}
    assert circle(package_arrows(both)) == ["data", "runs", "data"]
    assert not any(wrong_way(name, text) for name, text in both.items())
    assert not circle(package_arrows({**both, "llmspec.runs.run": "import llmspec.core.units"}))


def test_a_circle_is_seen() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_every_package_has_one_layer() -> None:
    every = [name for packages in LAYERS for name in packages]
    assert sorted(every) == sorted({package(name) for name in MODULES})


def test_the_map_is_that_of_the_package() -> None:
    """docs/MAP.md is made anew by `python tests/architecture_map.py > docs/MAP.md`."""
    assert (tiny.ROOT / "docs" / "MAP.md").read_text("utf-8") == architecture_map.written(LAYERS)
    for path in FILES:
        assert architecture_map.sentence(path) or path.name in ("__init__.py", "__main__.py"), (
            f"{path} says nothing of itself"
        )


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda p: str(p.relative_to(tiny.ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= LINES
    assert not long_functions(text)


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports them by name alone, and collects nothing at all where two in different folders have one."""
    names = sorted(path.name for path in (tiny.ROOT / "tests").rglob("*.py"))
    assert [name for name, following in itertools.pairwise(names) if name == following and name != "__init__.py"] == []


def test_a_long_function_is_seen() -> None:
    body = "    pass\n"
    assert long_functions("def f():\n" + body * FUNCTION_LINES) == ["f: 61 lines"]
    assert not long_functions("def f():\n" + body * (FUNCTION_LINES - 1))


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if package(module(p)) in ("core", "parts", "spec", "compiler")],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_nothing_heavy_up_to_the_compiler(path: Path) -> None:
    text, whole = path.read_text("utf-8"), path.relative_to(PACKAGE).as_posix() != TENSORS
    assert not HEAVY & {m.split(".")[0] for m in imports(text, checked=whole)}
    assert "numpy" not in {m.split(".")[0] for m in imports(path.read_text("utf-8"), top_level=True)}


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
