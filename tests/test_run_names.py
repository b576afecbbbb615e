"""Names inside a run directory: every file that a run writes is no phase's name, nor is what could be taken for one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import tiny

from llmspec.core import run_names
from llmspec.spec import read_spec

ODD = (
    "spec",
    "SPEC",
    "Plan.json",
    "con",
    "NUL.txt",
    "com1",
    "dots.",
    "x" * 101,
    "pretrain.0123abcd",
    "pretrain.0123ABCD.2",
    "other.unfinish",
)
FINE = (
    "pretrain",
    "specs",
    "plan",
    "plan.json5",
    "v1.0",
    "pretrain.0123abc",
    "pretrain.0123abcg",
    "x" * 100,
    "console",
    "a.b.c",
    "1",
)
BADLY_SPELLED = (".lock", ".hidden", "a/b", "..", "a b", "a\\\\b", "-x", "é")


def problems_of(folder: Path, *phases: str) -> list[object]:
    """What is wrong with a spec with these phases, as far as it is about names."""
    text = (
        tiny.TINY[: tiny.TINY.index("phases:")]
        + "phases:\n"
        + "".join(f'  "{name}": {{kind: pretrain, mixture: {{facts: 100%}}, budget: 2 steps}}\n' for name in phases)
    )
    return [p for p in read_spec(tiny.write(folder, text)).problems if "cannot name a phase" in p.message]


@pytest.mark.parametrize("name", [*(n for n in run_names.WRITTEN if not n.startswith(".")), *ODD])
def test_names_that_a_run_needs_are_refused(tmp_path: Path, name: str) -> None:
    (problem,) = problems_of(tmp_path, "first", name)
    assert problem.path == ("phases", name) and problem.consequence and problem.mark is not None
    assert problem.mark.text.strip().startswith(f'"{name[:40]}')
    better = problem.hint.split("`")[1]
    assert problems_of(tmp_path, "first", better) == []


@pytest.mark.parametrize("name", BADLY_SPELLED)
def test_so_are_names_that_are_no_folder(tmp_path: Path, name: str) -> None:
    assert len(problems_of(tmp_path, name)) == 1


def test_other_names_may_be_taken(tmp_path: Path) -> None:
    assert problems_of(tmp_path, *FINE) == []


def test_phases_that_would_share_a_folder(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "chat", "Chat")
    assert "`Chat`" in problem.message and "`chat`" in problem.message and problem.hint != "such as `Chat`"


def test_what_is_set_aside_is_told_from_phases() -> None:
    for name in FINE:
        for key in ("0123abcd" * 8, None):
            for number in (1, 2, 11):
                folder = run_names.aside(name, key, number)
                assert run_names.is_aside(folder, name) and any(run_names.wrong(folder))
                assert not run_names.is_aside(folder, f"{name}2") and not run_names.is_aside(name, name)


@pytest.mark.parametrize(
    "path",
    [p for room in ("runs", "training") for p in sorted((tiny.ROOT / "llmspec" / room).glob("*.py"))],
    ids=lambda p: p.name,
)
def test_every_file_that_the_code_names_in_a_run_is_reserved(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Div)
            and isinstance(node.left, ast.Attribute)
            and node.left.attr == "path"
            and isinstance(node.right, ast.Constant)
        ):
            assert node.right.value in run_names.WRITTEN, f"{path.name} line {node.lineno}"
