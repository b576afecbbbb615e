"""Files of the user: which are found, which are left out and said, and that what was hashed is what is read."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_sources import plan_of

from llmspec.core.problems import DataError
from llmspec.data import digests as hashing
from llmspec.data.fetch import Fetch
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.parts.sources import TABLE, opening
from llmspec.parts.sources.notes import SHOWN, Notes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / ".cache"))
    return tmp_path / ".cache"


def files(*path: str, **more: Any) -> Any:
    return TABLE["files"](path=path[0] if len(path) == 1 else path, **more)


def names(folder: Path, *path: str) -> tuple[list[str], Notes]:
    """Names of the documents, and what was said."""
    notes = Notes()
    fetch = Fetch(folder).noting(notes)
    prints = files(*path).fingerprint(fetch)
    found = [d.name for d in files(*path).documents(fetch)]
    assert [name for name, _ in prints if name in found] == found
    return found, notes


def said(folder: Path, *path: str, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(files(*path, **more).documents(Fetch(folder)))
    return str(caught.value)


def write(folder: Path, *written: str) -> None:
    for name in written:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"text of {name}")


def test_notes_count_every_one_and_name_the_first_few() -> None:
    notes = Notes()
    for i in range(500):
        notes.add("empty files", f"{i}.txt")
    notes.add("folders of runs", "runs/a")
    notes.add("rows", count=7)
    assert list(notes.said()) == [
        "left out empty files (500): 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...",
        "left out folders of runs (1): runs/a",
        "left out rows (7)",
    ]
    assert Notes.parse(notes.dump()) == notes and len(notes.examples["empty files"]) == SHOWN


# -- which files -----------------------------------------------------------------------------------------------------


def test_a_file_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    write(tmp_path, "b/one.txt", "b/two.txt")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "a.txt").symlink_to(tmp_path / "b" / "one.txt")
    os.link(tmp_path / "b" / "two.txt", tmp_path / "b" / "zwei.txt")
    (tmp_path / "b" / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "b" / "self.txt").symlink_to("self.txt")
    found, notes = names(tmp_path, "**/*.txt", "b/*.txt")
    assert found == ["b/one.txt", "b/two.txt"]
    assert notes.counts["links to files that are read already"] == 1
    assert notes.counts["further names (hard links) of files that are read already"] == 1
    assert notes.examples["links to folders that are read already"] == ["a", "b/loop"]
    assert notes.examples["links that lead nowhere"] == ["b/gone.txt", "b/self.txt"]


def test_a_link_out_of_the_folder_is_followed(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/x/a.txt", "here/b.txt")
    (tmp_path / "here" / "data").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "here", "**/*.txt")[0] == ["b.txt", "data/x/a.txt"]


TREE = st.lists(
    st.sampled_from(["d/{0}.txt", "d/e/{0}.txt", "{0}.txt", "f/{0}.md", ".h/{0}.txt", ".{0}.txt"]),
    min_size=1,
    max_size=5,
)
PATTERNS = ("*.txt", "**/*.txt", "**", "**/*", "d/**/*.txt", "*/*.txt", "?/*", ".h/*.txt", "[df]/**", "*/e/*", "./d/*")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tree=TREE, pattern=st.sampled_from(PATTERNS))
def test_patterns_mean_what_pythons_glob_means(
    tmp_path_factory: pytest.TempPathFactory, tree: list[str], pattern: str
) -> None:
    import glob

    folder = tmp_path_factory.mktemp("tree")
    write(folder, *(name.format(i) for i, name in enumerate(tree)))
    meant = sorted(
        {Path(n).as_posix() for n in glob.glob(pattern, root_dir=folder, recursive=True) if (folder / n).is_file()},
        key=lambda n: n.split("/"),
    )
    try:
        found = names(folder, pattern)[0]
    except DataError as error:
        found = []
        assert "no file matches" in str(error)
    assert found == meant


def test_runs_and_the_cache_are_never_read(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "kept"))
    write(
        tmp_path,
        "a.jsonl",
        "runs/x/metrics.jsonl",
        "runs/x/plan.json",
        "runs/x/lock.json",
        "kept/b.jsonl",
        "runs/x/deep/c.jsonl",
        "plans/plan.json",
        "plans/d.jsonl",
        "runs/new/lock.json",
        "runs/new/sources.json",
        "runs/new/e.jsonl",
    )
    for file in tmp_path.rglob("*.jsonl"):
        file.write_text('{"t": "x"}\n')
    found, notes = names(tmp_path, "**/*.jsonl")
    assert found == ["a.jsonl", "plans/d.jsonl"]
    assert notes.examples["folders of runs"] == ["runs/new", "runs/x"]
    assert notes.examples["the cache of llmspec"] == ["kept"]
    for pattern in ("runs/x/*.jsonl", "runs/*/metrics.jsonl", str(tmp_path / "runs" / "x" / "metrics.jsonl")):
        assert "skipped, since it is not text of yours: folders of runs" in said(tmp_path, pattern)


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/x.txt", "b/y.txt", "c.txt")
    real = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    text = said(tmp_path, "**/*.txt")
    assert "path: `b` cannot be read: Permission denied" in text and "its text would be missing" in text
    for part in ("documents", "fingerprint"):
        with pytest.raises(DataError):
            list(getattr(files("**/*.txt"), part)(Fetch(tmp_path)))


def test_only_regular_files_are_read_and_quickly_so(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket.txt"))
        (tmp_path / "zero.txt").symlink_to("/dev/zero")
        begun = time.monotonic()
        found, notes = names(tmp_path, "*.txt")
        assert found == ["a.txt"] and notes.counts == {"pipes, sockets and devices": 3}
        for name, what in (
            ("pipe.txt", "a pipe"),
            ("socket.txt", "a socket"),
            ("zero.txt", "a device"),
            ("/dev/zero", "a device"),
            ("/dev/stdin/x", "no file matches"),
        ):
            assert what in said(tmp_path, name), name
        assert time.monotonic() - begun < 2


def test_sparse_files_are_refused_before_they_are_hashed(tmp_path: Path) -> None:
    with (tmp_path / "big.txt").open("wb") as file:
        file.write(b"some text\n" * 1000)
        file.truncate(1 << 40)
    if (tmp_path / "big.txt").stat().st_blocks * 512 > 1 << 30:
        pytest.skip("this file system keeps no holes")
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"`big.txt` is a sparse file of 1\.0 TiB"):
        files("*.txt").fingerprint(Fetch(tmp_path))
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "name",
    [
        b"caf\xe9.txt",
        b"\x1b[31mred.txt",
        b"two\nlines.txt",
        b"a\tb.txt",
        b"[x]*.txt",
        "ünï.txt".encode(),
        b"n" * 251 + b".txt",
    ],
)
def test_any_name_of_a_file_is_read_and_can_be_written_down(tmp_path: Path, name: bytes) -> None:
    (tmp_path / os.fsdecode(name)).write_text("text")
    (document,) = files("*.txt").documents(Fetch(tmp_path))
    document.name.encode("utf-8")
    ((written, _),) = files("*.txt").fingerprint(Fetch(tmp_path))
    assert written == document.name
    if name.isascii():
        assert names(tmp_path, os.fsdecode(name))[0] == [os.fsdecode(name)]


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("n" * 300, "cannot be read: File name too long"),
        ("x/" * 3000 + "y", "no file"),
        ("**/nothing", "no file"),
        ("notes", "`notes` is a folder"),
        ("notes/", "write `notes/**/*.md` for what it holds"),
        (".", "is a folder"),
        ("notes\\*.md", "separated by `/`: `notes/*.md`"),
        ("notes/*.{md,txt}", "write a list"),
        ("$HOME/*.md", "variables are not replaced"),
        ("%TEMP%/*.md", "variables are not replaced"),
        ("~nobody/x.txt", "no file matches"),
        ("nots/*.md", "nots is not a folder"),
        ("notes/a.txt", "there are: a.md, b.md"),
    ],
)
def test_patterns_that_match_nothing(tmp_path: Path, pattern: str, sentence: str) -> None:
    write(tmp_path, "notes/a.md", "notes/b.md")
    text = said(tmp_path, pattern)
    assert sentence in text and len(text) < 1200
    assert "did you mean `notes`" not in text


@pytest.mark.parametrize("path", ["", " ", "a\0b", (), "https://example.org/a.txt", "file:///a.txt", "s3://b/*.md"])
def test_paths_that_name_nothing_are_found_without_data(path: Any) -> None:
    with pytest.raises(ValidationError):
        TABLE["files"](path=path)


def test_the_home_folder_is_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "home/notes/a.md")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert names(tmp_path / "nowhere", "~/notes/*.md")[0] == ["~/notes/a.md"]
    assert names(tmp_path / "nowhere", "~/notes/a.md")[0] == ["~/notes/a.md"]
    assert names(tmp_path / "nowhere", str(tmp_path / "home/n*/a.md"))[0] == [f"{tmp_path}/home/notes/a.md"]


def test_what_is_left_out_is_said_also_where_nothing_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "b.txt")
    (tmp_path / "c.txt").write_text("")
    plan = plan_of(tmp_path, {"t": files("**/*.txt")}, ("p", "pretrain", {"t": 100}, "1 steps"), context=4)
    assert list(notices(prepare(plan))) == ["t: left out empty files (1): c.txt"]
    write(tmp_path, "runs/x/plan.json", "runs/x/lock.json", "runs/x/d.txt")
    for _ in range(2):
        assert list(notices(prepare(plan))) == [
            "t: left out folders of runs (1): runs/x",
            "t: left out empty files (1): c.txt",
        ]


def test_a_source_of_empty_files_says_so(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("\n")
    plan = plan_of(tmp_path, {"t": files("*.txt")}, ("p", "pretrain", {"t": 100}, "1 steps"), context=4)
    with pytest.raises(DataError, match=r"holds no document; left out empty files \(2\): a.txt, b.txt"):
        prepare(plan)


# -- hashing, and reading what was hashed ----------------------------------------------------------------------------


def test_unchanged_files_are_hashed_once_and_one_index_remembers(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, *(f"t/{i}.txt" for i in range(50)))
    part = files("t/*.txt")
    for file in (tmp_path / "t").iterdir():
        os.utime(file, (1, 1))
    monkeypatch.setattr(hashing, "_RACY", 0)
    first = part.fingerprint(Fetch(tmp_path))
    assert len(list((cache / "indexes").iterdir())) == 1
    opened: list[str] = []
    real = hashing.opened
    monkeypatch.setattr(hashing, "opened", lambda found, hashed: opened.append(found.name) or real(found, hashed))
    assert part.fingerprint(Fetch(tmp_path)) == first and opened == []
    (tmp_path / "t" / "7.txt").write_text("Text of t/7.txt")  # as long as before
    (tmp_path / "t" / "9.txt").unlink()
    second = part.fingerprint(Fetch(tmp_path))
    assert opened == ["t/7.txt"] and len(second) == 49 and second != first
    (index,) = (cache / "indexes").iterdir()
    whole = index.read_bytes()
    for garbled in (b"", b"\xff", b"00000000\n{}", whole[:-9], whole.replace(b"7.txt", b"8.txt")):
        index.write_bytes(garbled)
        assert part.fingerprint(Fetch(tmp_path)) == second
    index.unlink()
    index.mkdir()
    assert part.fingerprint(Fetch(tmp_path)) == second


def test_a_file_that_was_just_written_is_hashed_again(tmp_path: Path) -> None:
    part = files("*.txt")
    write(tmp_path, "a.txt")
    first = part.fingerprint(Fetch(tmp_path))
    (tmp_path / "a.txt").write_text("Text of a.txt")
    assert part.fingerprint(Fetch(tmp_path)) != first


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_what_changes_between_hashing_and_reading_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"a": "one"}\n')
    part, fetch = files(name), Fetch(tmp_path)
    part.fingerprint(fetch)
    assert len(list(part.documents(fetch))) == 1
    (tmp_path / name).write_text('{"a": "two"}\n')
    with pytest.raises(DataError, match=f"{name} changed while it was read"):
        list(part.documents(fetch))


def test_files_that_vanish_or_turn_into_pipes_while_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.txt", "b.txt")
    from llmspec.parts.sources import files as module

    def then(change: Any) -> str:
        real = module.find
        with monkeypatch.context() as patch:
            patch.setattr(module, "find", lambda *args: (real(*args), change())[0])
            return said(tmp_path, "*.txt")

    assert "a.txt cannot be read: No such file" in then(lambda: (tmp_path / "a.txt").unlink())
    text = then(lambda: ((tmp_path / "b.txt").unlink(), os.mkfifo(tmp_path / "b.txt")))
    assert "b.txt is a pipe, not a file any more" in text


def test_a_read_error_in_the_middle_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.txt")

    class Broken:
        def update(self, piece: bytes) -> None:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(opening.hashlib, "sha256", Broken)
    assert "a.txt cannot be read: Input/output error" in said(tmp_path, "a.txt")


def test_hundreds_of_empty_or_broken_files_are_counted(tmp_path: Path) -> None:
    write(tmp_path, "good.txt")
    for i in range(500):
        (tmp_path / f"e{i:03}.txt").write_text(" \n" * (i % 2))
    found, notes = names(tmp_path, "*.txt")
    assert found == ["good.txt"] and notes.counts == {"empty files": 500}
    for i in range(300):
        (tmp_path / f"e{i:03}.txt").write_bytes(b"\xff\xff")
    with pytest.raises(DataError) as caught:
        list(files("*.txt").documents(Fetch(tmp_path)))
    assert len(caught.value.problems) == 6
    assert caught.value.problems[-1].message == "295 more problems like these, in 300 files altogether"
