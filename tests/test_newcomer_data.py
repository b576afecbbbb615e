"""Files as people have them on their first evening: what is said names the cause, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError
from llmspec.data.mixture import times
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.spec.load import load_spec

SPEC = """\
name: mine
model: {d_model: 16, layers: 1, context: 16, attention: {heads: 2}}
tokenizer: {kind: byte}
data: {sources: {me: {kind: files, path: "PATH", validation: tail 10%}}}
phases: {first: {kind: pretrain, mixture: {me: 100%}, budget: 5 steps, micro_batch_size: 2}}
"""
LINES = [f'{{"text": "the {n}th record of a file"}}' for n in range(300)]


def said(folder: Path, path: str) -> str:
    """What is said of a source's files when its data are made ready; empty where nothing is wrong."""
    plan = compile_spec(load_spec(tiny.write(folder, SPEC.replace("PATH", path))).spec)
    try:
        prepared = prepare(plan, offline=True)
        for phase in plan.phases:
            prepared.stream(phase.name)
    except DataError as error:
        return "; ".join(f"{p.message}; {p.hint}" for p in error.problems)
    return ""


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("".join(f"{line},\n" for line in LINES), "no comma behind it: sed -i"),
        ("\n".join(line.replace("}", ",}") for line in LINES), "no comma before the closing brace"),
        ("\n".join(line.replace('"', "'") for line in LINES), "double quotes; from Python write json.dumps"),
        ("[\n" + ",\n".join(LINES) + "\n]", "into a .json file: rename it"),
        (LINES[0], "only one record"),
        ("\n".join([LINES[0]] * 300), "also in validation"),
        ("\n".join(LINES), ""),
    ],
)
def test_jsonl_as_people_write_it(text: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    found = said(tmp_path, "*.jsonl")
    assert hint in found if hint else not found


def test_a_folder_of_pdfs_is_called_that_and_text_beside_them_is_found(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for n in range(3):
        (tmp_path / "docs" / f"{n}.pdf").write_bytes(b"%PDF-1.4")
    assert "a PDF document (3 files): take the text out" in said(tmp_path, "docs")
    (tmp_path / "docs" / "a.txt").write_text("text")
    assert "`docs/**/*.txt`" in said(tmp_path, "docs")


def test_a_budget_too_long_is_answered_in_its_own_unit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {n} of a small text\n" for n in range(100)))
    spec = SPEC.replace("PATH", "*.txt").replace("5 steps", "5000 steps")
    plan = compile_spec(load_spec(tiny.write(tmp_path, spec)).spec)
    with pytest.raises(DataError) as caught:
        prepare(plan, offline=True)
    hint = caught.value.problems[0].hint
    assert "lower the budget to" in hint and "steps" in hint and "share" not in hint
    fewer = hint.split("lower the budget to ")[1].split(",")[0]
    plan = compile_spec(load_spec(tiny.write(tmp_path, spec.replace("5000 steps", fewer))).spec)
    prepare(plan, offline=True).stream("first")


def test_how_often_is_told_in_digits() -> None:
    assert [times(n) for n in (0.1534, 4, 99.6, 1024.3, 2e6)] == ["0.153", "4", "99.6", "1,024", "2,000,000"]


def test_records_without_the_field_of_the_split_are_said(tmp_path: Path) -> None:
    lines = [f'{{"text": "the {n}th record of a file", "film": "{n % 9}"}}' for n in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"text": "of no film"}']))
    text = SPEC.replace("PATH", "*.jsonl").replace("tail 10%", '"hash 30% by {film}"')
    prepared = prepare(compile_spec(load_spec(tiny.write(tmp_path, text)).spec), offline=True)
    assert any("documents without {film}" in said and "a.jsonl:201" in said for said in notices(prepared))
    wrong = text.replace("{film}", "{flim}")
    with pytest.raises(DataError, match="no record has a field `flim`"):
        prepare(compile_spec(load_spec(tiny.write(tmp_path, wrong)).spec), offline=True)
