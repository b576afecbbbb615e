"""What a run writes into: folders that are no runs stay as they are, rows survive, and what ends it late is early."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import small
from hypothesis import example, given
from hypothesis import strategies as st

import llmspec
from llmspec.core import strict_json
from llmspec.core.problems import RunError
from llmspec.runs import claim
from llmspec.runs.claim import OURS
from llmspec.runs.files import Rows
from llmspec.runs.run import RunFolder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"/" for p in folder.rglob("*")}


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data are read by none of these runs: what is refused is refused before."""
    from llmspec.training import run

    def read(*_: object, **__: object) -> None:
        raise AssertionError("the data were read")

    monkeypatch.setattr(run, "prepare", read)


# -- folders that are no runs --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", [*(n for n in OURS if n != "spec"), "notes.txt", "pretrain/a.txt", "spec/b.yaml", ".lock"]
)
def test_files_of_others_stay_as_they_are(tmp_path: Path, name: str) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"mine": true}')
    before = tree(tmp_path)
    with pytest.raises(RunError, match=r"not a run directory|in the way"):
        llmspec.run(small.plan(), tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("phase", ["a file", "another folder", "a link"])
def test_nor_is_anything_moved_inside_a_run(tmp_path: Path, phase: str) -> None:
    plan = small.plan()
    (tmp_path / "plan.json").write_text(json.dumps(plan.dump()))
    place = tmp_path / "chat"
    if phase == "a file":
        place.write_text("a letter")
    elif phase == "a link":
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        (place / "letter.txt").write_text("a letter")
    before = tree(tmp_path)
    with pytest.raises(RunError, match="in the way"):
        llmspec.run(plan, tmp_path)
    assert tree(tmp_path) == before


def test_what_a_killed_start_left_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("4711")
    for name in ("resolved.yaml", "tokenizer.json", ".sources.json.4711"):
        (tmp_path / name).write_text("x")
    claim.accept(tmp_path, small.plan())


@pytest.mark.parametrize("place", ["a file", "inside a file", "read-only", "a name of 300 letters"])
def test_a_place_that_cannot_be_written_is_refused_before_the_data_are_read(tmp_path: Path, place: str) -> None:
    file = tmp_path / "file"
    file.write_text("a letter")
    out = {
        "a file": file,
        "inside a file": file / "run",
        "read-only": tmp_path / "closed" / "run",
        "a name of 300 letters": tmp_path / ("x" * 300),
    }[place]
    if place == "read-only":
        (tmp_path / "closed").mkdir(mode=0o555)
        if os.geteuid() == 0:
            pytest.skip("root writes everywhere")
    with pytest.raises(RunError) as caught:
        llmspec.run(small.plan(), out)
    assert "--out" in caught.value.problems[0].hint
    assert file.read_text() == "a letter"


def test_a_run_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="were read"):
        llmspec.run(small.plan(), tmp_path / "a" / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AssertionError, match="were read"):
        llmspec.run(small.plan(), tmp_path / "empty")
    assert not (tmp_path / "a" / "run").exists() and list((tmp_path / "empty").iterdir()) == []


# -- room --------------------------------------------------------------------------------------------------------
def test_room_for_all_checkpoints_is_asked_for_before_the_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from collections import namedtuple

    plan = small.plan()
    whole, _ = claim.checkpoint_bytes(plan, plan.phases[0])
    assert whole == 4 * plan.model.parameters * 3, "weights, and Adam's two averages of each"
    usage = namedtuple("usage", "total used free")
    need = 2 * 2 * whole + whole
    for free, fits in ((need - 1, False), (need, True)):
        monkeypatch.setattr(claim.shutil, "disk_usage", lambda _, free=free: usage(10 * need, 0, free))
        with pytest.raises(
            RunError if not fits else AssertionError,
            match="the checkpoints of this run take" if not fits else "were read",
        ):
            llmspec.run(plan, tmp_path / "run")


def test_checkpoints_that_are_there_need_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    plan = small.plan()
    whole, _ = claim.checkpoint_bytes(plan, plan.phases[0])
    for phase in ("pretrain", "chat"):
        for step in ("step_2", "step_4"):
            (tmp_path / phase / step).mkdir(parents=True)
            (tmp_path / phase / step / "weights.safetensors").write_bytes(b"x" * whole)
    monkeypatch.setattr(claim.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(whole))
    claim.check_room(tmp_path, plan)


# -- the lock ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "EIO", "EWOULDBLOCK"])
def test_what_a_lock_answers_is_told_truthfully(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    import errno
    import fcntl

    def answer(*_: object) -> None:
        raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))

    monkeypatch.setattr(fcntl, "flock", answer)
    if error in ("EIO", "EWOULDBLOCK"):
        with (
            pytest.raises(RunError, match="another process" if error == "EWOULDBLOCK" else "cannot be locked"),
            RunFolder(tmp_path).alone(),
        ):
            pass
    else:
        with RunFolder(tmp_path).alone() as notices:
            assert "has no locks" in notices[0]


# -- rows ----------------------------------------------------------------------------------------------------------
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["\u2028", "\u2029", "\x85", "a\rb", "\x1c\x1d\x1e", "\x0b\x0c", "\n", "\ufeff"]
)
ROWS = st.lists(st.builds(lambda prompt, text: {"prompt": prompt, "text": text}, TEXT, TEXT), min_size=1, max_size=6)


@given(rows=ROWS, cut=st.integers(0, 7), half=st.integers(0, 40), bad=st.integers(0, 6))
@example(rows=[{"prompt": "", "text": ""}], cut=1, half=37, bad=2)
def test_rows_survive_whatever_texts_they_hold(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], cut: int, half: int, bad: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.unlink(missing_ok=True)
    numbered = [{"step": i + 1, **row} for i, row in enumerate(rows)]
    for row in numbered:
        Rows(path).append(row)
    assert Rows(path).read() == numbered
    lines = path.read_bytes().split(b"\n")
    lines.insert(bad, b"\xff damaged {")
    path.write_bytes(b"\n".join(lines) + json.dumps(numbered[0]).encode()[:half])
    was_damaged = Rows(path).cut(cut)
    assert Rows(path).read() == [r for r in numbered if r["step"] <= cut] + (
        [numbered[0]] if half >= len(json.dumps(numbered[0])) and cut and bad <= len(rows) else []
    )
    assert was_damaged >= (bad < len(rows))


def test_a_row_without_its_line_feed_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    Rows(path).cut(2)
    Rows(path).append({"step": 3})
    assert [r["step"] for r in Rows(path).read()] == [1, 2, 3]


def test_nothing_of_ours_splits_lines_where_texts_may_break() -> None:
    """`splitlines` ends lines at ten other characters: only output of programs and messages of errors go through it."""
    import re

    import tiny

    rooms = ("runs", "data", "training", "decoding", "explain", "spec")
    found = [
        f"{p.relative_to(tiny.ROOT)}: {line.strip()}"
        for room in rooms
        for p in (tiny.ROOT / "llmspec" / room).rglob("*.py")
        for line in p.read_text("utf-8").split("\n")
        if re.search(r"\.splitlines\(", line) and not re.search(r"str\(|said|stderr|stdout|#", line)
    ]
    assert not found


# -- JSON ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "[1e999]",
        "[NaN]",
        "[-Infinity]",
        "[" * 100_000,
        "9" * 41,
        "9" * 9999,
        r'"\ud800"',
        r'{"\udfff": 1}',
        "{",
        "",
        "\ufeff{}",
        "[1,]",
    ],
)
def test_json_beyond_what_machines_agree_on_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(it |Unexpected)"):
        strict_json.loads(text)
    with pytest.raises(ValueError, match="not UTF-8"):
        strict_json.loads(text.encode() + b"\xff")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(10**39), 10**39)
        | st.floats(allow_nan=False, allow_infinity=False)
        | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    )
)
def test_json_of_every_other_kind_reads_back(value: Any) -> None:
    assert strict_json.loads(json.dumps(value)) == value
    assert strict_json.loads(json.dumps(value, ensure_ascii=False).encode()) == value
