"""What is kept in the cache is whole or not there, whoever or whatever was at it meanwhile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmspec.data import artifact_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path) -> dict[str, Any]:
    (folder / "tokens.bin").write_bytes(b"0123456789" * 100)
    (folder / "lengths.bin").write_bytes(b"")
    return {"documents": 3, "share": 0.1, "names": ["a\ud800"], "deep": {"1": None}}


def make() -> Path:
    entry = artifact_cache.make("tokens", "k", write)
    found = artifact_cache.find("tokens", "k")
    assert found == entry and found.about == {"documents": 3, "share": 0.1, "names": ["a\ud800"], "deep": {"1": None}}
    return found.folder


@pytest.mark.parametrize("large", [False, True])
def test_a_changed_byte_anywhere_is_noticed(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:  # read only where the times changed, which every writing does
        monkeypatch.setattr(artifact_cache, "SUMMED_WHOLE", 0)
    folder = make()
    for name in ("tokens.bin", artifact_cache.ABOUT):
        raw = (folder / name).read_bytes()
        for at in range(0, len(raw), 11):
            (folder / name).write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
            assert artifact_cache.find("tokens", "k") is None, (name, at)
        (folder / name).write_bytes(raw)
        assert artifact_cache.find("tokens", "k") is not None


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.unlink(),
        lambda f: f.write_bytes(b""),
        lambda f: (f.unlink(), os.mkfifo(f)),
        lambda f: (f.unlink(), f.mkdir()),
        lambda f: (f.rename(f.with_name("x")), f.symlink_to("x")),
        lambda f: os.truncate(f, 1 << 40),
    ],
)
@pytest.mark.parametrize("name", ["tokens.bin", artifact_cache.ABOUT])
def test_what_is_no_such_file_any_more_is_made_anew(damage: Callable[[Path], Any], name: str) -> None:
    folder = make()
    damage(folder / name)
    if not ((folder / name).is_symlink() and name == artifact_cache.ABOUT):  # a link to the same notes says the same
        assert artifact_cache.find("tokens", "k") is None
    make()


@pytest.mark.parametrize("notes", ["", "[]", "{}", "3", "null", "[" * 100_000, '{"files": []}', '{"files": {"x": 1}}'])
def test_notes_that_say_nothing_are_made_anew(notes: str) -> None:
    folder = make()
    (folder / artifact_cache.ABOUT).write_text(notes)
    assert artifact_cache.find("tokens", "k") is None
    make()


def test_a_large_file_is_not_read_while_nobody_wrote_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make()
    monkeypatch.setattr(artifact_cache, "SUMMED_WHOLE", 10)
    monkeypatch.setattr(
        artifact_cache, "_checksum", lambda file: pytest.fail(f"{file.name} was read") if file.stat().st_size else 0
    )
    assert artifact_cache.find("tokens", "k") is not None
    monkeypatch.undo()
    os.utime(folder / "tokens.bin", (1, 1))  # as after a copy: read once more, and fine
    monkeypatch.setenv("LLMSPEC_CACHE", str(folder.parents[1]))
    assert artifact_cache.find("tokens", "k") is not None
    assert set(json.loads((folder / artifact_cache.ABOUT).read_text())) == {"files", "about", "sum"}
