"""What a user gets wrong about data: named, with its place, what to do, and what would have happened."""

import errno
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from test_sources import index, plan_of, source, wheel  # noqa: F401

from llmspec.core.problems import DataError, Problem
from llmspec.data import fetch as fetching
from llmspec.data.fetch import Fetch
from llmspec.data.fields import Fields
from llmspec.data.prepare import prepare
from llmspec.data.shaping import Dropped, dialogue
from llmspec.data.writing import FileRows
from llmspec.parts import sources, tokenizers
from llmspec.parts.sources import Document
from llmspec.parts.sources.notes import Notes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def problems(part: Any, folder: Path) -> tuple[Problem, ...]:
    with pytest.raises(DataError) as caught:
        list(part.documents(Fetch(folder)))
    return caught.value.problems


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "plays.txt").write_text("x")
    missing, nowhere = problems(source("files", path=("play.txt", "no/where/*.md")), tmp_path)
    assert "no file matches `play.txt`" in missing.message and missing.path == ("path",)
    assert missing.hint == "did you mean `plays.txt`?"
    assert "is not a folder" in nowhere.hint


def test_broken_files_are_all_told_at_once_and_empty_ones_refuse_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_bytes(b"good line\nna\xefve line\nmore")
    (tmp_path / "c.txt").write_bytes(b"a\0b")
    broken, null = problems(source("files", path="*.txt"), tmp_path)
    assert "byte 0xef" in broken.message and "iconv" in broken.hint
    assert "a NUL character" in null.message and str(null).startswith("c.txt:1:2")
    assert broken.mark and (broken.mark.file, broken.mark.line, broken.mark.column) == ("b.txt", 2, 3)
    assert broken.mark.text == "na\\xefve line"


def test_malformed_jsonl_lines_are_named(tmp_path: Path) -> None:
    lines = ['{"a": 1}', '{"a": }', "[1]", '{"a": 2}', '"x"', "{}"]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    found = problems(source("files", path="r.jsonl"), tmp_path)
    assert [(p.mark.line, p.mark.text) for p in found if p.mark] == [(i + 1, lines[i]) for i in (1, 2, 4, 5)]
    assert "not JSON" in found[0].message and found[0].mark and found[0].mark.column == 7
    assert "a list" in found[1].message and "a text" in found[2].message and "without fields" in found[3].message
    assert str(found[0]).startswith("r.jsonl:2:7: not JSON")
    (tmp_path / "r.jsonl").write_text("x\n" * 50)
    found = problems(source("files", path="r.jsonl"), tmp_path)
    assert len(found) == 6 and found[-1].message == "45 more problems like these"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "entry `0`: a record is a map"),
        ("3", "neither a list nor a map"),
        ('{"a": {"b": 1},\n "c" 2}', "not JSON"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_malformed_json_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "r.json").write_text(text)
    assert said in str(problems(source("files", path="r.json"), tmp_path)[0])


# -- packages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"package": "a/b"},
        {"package": "--index-url=x"},
        {"package": "a b"},
        {"package": ""},
        {"version": ">=1.0"},
        {"version": "1.*"},
        {"version": "1.0,2.0"},
        {"version": "-r x"},
        {"version": ""},
        {"sha256": "ab"},
        {"sha256": "g" * 64},
        {"files": "../x"},
        {"files": "/etc/*"},
        {"files": ("a", "b/../../c")},
        {"files": "a\\b"},
        {"files": "~/a"},
        {"files": "a\0b"},
        {"files": " "},
        {"files": ("",)},
    ],
)
def test_what_a_package_source_refuses(settings: dict[str, Any]) -> None:
    good = {"package": "texts", "version": "1.0", "sha256": "0" * 64, "files": "*.md"}
    source("package", **good)
    with pytest.raises(ValidationError):
        source("package", **{**good, **settings})


def package(sha256: str, **settings: Any) -> Any:
    good = {"package": "texts", "version": "1.0", "sha256": sha256, "files": "texts/*.md"}
    return source("package", **{**good, **settings})


def test_another_hash_is_refused_before_unpacking(
    tmp_path: Path,
    index: Path,  # noqa: F811
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sha = wheel(index, {"texts/a.md": "alpha"})
    monkeypatch.setattr(fetching, "unpack", lambda *args: pytest.fail("unpacked"))
    (problem,) = problems(package("1" * 64), tmp_path)
    assert sha in problem.message and "1" * 64 in problem.message
    assert list((cache / "packages").iterdir()) == []


def test_no_such_version_no_network_and_offline(
    tmp_path: Path,
    index: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wheel(index, {"texts/a.md": "alpha"})
    (problem,) = problems(package("1" * 64, version="2.0"), tmp_path)
    assert "texts 2.0 could not be downloaded" in problem.message and "check the name and the version" in problem.hint
    assert "No matching distribution" in problem.message
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    (problem,) = problems(package("1" * 64), tmp_path)
    assert "check the network" in problem.hint
    with pytest.raises(DataError, match=r"texts 1\.0 is not in the cache, and this command downloads nothing"):
        Fetch(tmp_path, offline=True).package("texts", "1.0", "1" * 64)


def test_a_source_distribution_is_never_built(tmp_path: Path, index: Path) -> None:  # noqa: F811
    import tarfile

    index.mkdir()
    with tarfile.open(index / "texts-1.0.tar.gz", "w:gz") as archive:
        script = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
        member = tarfile.TarInfo("texts-1.0/setup.py")
        member.size = len(script)
        archive.addfile(member, io.BytesIO(script))
    (problem,) = problems(package("1" * 64), tmp_path)
    assert "could not be downloaded" in problem.message and not (tmp_path / "ran").exists()


def test_a_download_larger_than_allowed_is_refused(
    tmp_path: Path,
    index: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sha = wheel(index, {"texts/a.md": "alpha"})
    monkeypatch.setattr(fetching, "LARGEST_WHEEL", 100)
    (problem,) = problems(package(sha), tmp_path)
    assert "larger than 100 B" in problem.message


def rotten(file: Path) -> None:
    """Other text of the same size, and times as if nobody had written."""
    before, text = file.stat(), file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(text[:-1] + b"?")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        rotten,
        lambda file: file.unlink(),
        lambda file: file.with_name("c.md").write_text("more"),
        lambda file: (file.unlink(), file.symlink_to("b.md")),
        lambda file: (file.unlink(), os.mkfifo(file)),
        lambda file: (file.unlink(), file.mkdir()),
        *(
            lambda file, text=text: (file.parents[2] / "wheel.json").write_text(text)
            for text in ("", "[]", '{"files": 3}', '{"files": {"texts/a.md": []}}')
        ),
    ],
)
def test_a_package_that_was_altered_in_the_cache_is_made_anew(
    tmp_path: Path, cache: Path, damage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = wheel(tmp_path / "index", {"texts/a.md": "alpha", "texts/b.md": "beta"})
    (file,) = (tmp_path / "index").iterdir()
    monkeypatch.setattr(
        Fetch, "_download", lambda self, name, version, folder: Path(shutil.copy(file, folder / file.name))
    )
    first = list(package(sha).documents(Fetch(tmp_path)))
    text = cache / "packages" / sha / "files" / "texts" / "a.md"
    assert not text.stat().st_mode & 0o222
    damage(text)
    with pytest.raises(DataError, match="not in the cache"):
        list(package(sha).documents(Fetch(tmp_path, offline=True)))
    assert list(package(sha).documents(Fetch(tmp_path))) == first
    assert list(package(sha).documents(Fetch(tmp_path, offline=True))) == first


def test_a_disk_that_forgets_is_noticed_while_reading(
    tmp_path: Path,
    index: Path,  # noqa: F811
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sha = wheel(index, {"texts/a.md": "alpha"})
    list(package(sha).documents(Fetch(tmp_path)))
    rotten(cache / "packages" / sha / "files" / "texts" / "a.md")
    note = json.loads((cache / "packages" / sha / "wheel.json").read_text())
    monkeypatch.setattr(
        fetching,
        "_state",
        lambda path: tuple(next(found for name, found in note["files"].items() if str(path).endswith(name))[:3]),
    )
    (problem,) = problems(package(sha), tmp_path)
    assert "a.md is not what was unpacked there" in problem.message


# -- shaping ---------------------------------------------------------------------------------------------------------


def test_templates_whose_fields_no_record_has(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('\n{"title": "x", "tags": ["a"]}\n' * 9)
    (tmp_path / "a.txt").write_text("text " * 50)
    parts = {
        "near": source("files", path="r.jsonl", text="{titel}"),
        "plain": source("files", path="a.txt", text="{x}"),
        "spoken": source("files", path="a.txt", dialogue={"user": "{x}", "assistant": "{y}"}),
    }
    with pytest.raises(DataError) as caught:
        prepare(plan_of(tmp_path, parts, ("p", "sft", dict.fromkeys(parts, 30) | {"near": 40}, "1 steps")))
    near, plain, spoken = caught.value.problems
    assert near.message == "no record has a field `titel`; r.jsonl:2 has title, tags"
    assert near.hint == "did you mean `title`?" and near.path == ("data", "sources", "near", "text")
    assert "a.txt is plain text, without the fields `x` that" in plain.message and "`x`, `y`" in spoken.message


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"text": "a {x} b"}, ("text",)),
        ({"text": "{there}", "label": "{x}"}, ("label",)),
        ({"text": "{there}", "weight": "{x}"}, ("weight",)),
        ({"text": "{there}", "validation": "hash 5% by {x}"}, ("validation",)),
        ({"text": "{there}", "cut_at": {"x": ["."]}}, ("cut_at", "x")),
        ({"words": "{there}", "tags": "{x}"}, ("tags",)),
        ({"source": "{there}", "target": "{there} {x}"}, ("target",)),
        ({"dialogue": {"user": "{there}", "assistant": "{x}"}}, ("dialogue", "assistant")),
        ({"messages": "x", "license": "x"}, ("messages",)),
        ({"prompt": "{there}", "chosen": "{there}", "rejected": ["no", "{x}"]}, ("rejected", 1)),
        ({"prompt": "{there}", "answers": "there", "scores": {"x": 2.0}}, ("scores", "x")),
        ({"prompt": "{there}", "completion": "{there}", "good": "{x}"}, ("good",)),
    ],
)
def test_a_field_that_no_record_has_is_named_at_its_key(keys: dict[str, Any], path: tuple[str | int, ...]) -> None:
    given = {"kind": "inline", "records": [{"there": "x", "more": "{x}"}], **keys}
    made = sources.TABLE["inline"].model_validate_json(json.dumps(given))
    fields = Fields(made, dialogues=True)
    fields.look(Document("r", "text", {"there": "x"}))
    with pytest.raises(DataError) as caught:
        fields.check(Notes())
    assert [(p.path, "field `x`" in p.message) for p in caught.value.problems] == [(path, True)]


@pytest.mark.parametrize(
    ("messages", "reason", "detail"),
    [
        ("hi", "unreadable", "`chat` is not a list"),
        ([{"content": "x"}], "unreadable", "entry 1 of `chat` has no `role`"),
        ([{"role": "user"}], "empty", "a turn of user"),
        ([{"role": "usr", "content": "x"}], "unknown role", "`usr`"),
        ([{"role": "user", "content": {"x": 3}}], "not text", "`chat` holds a map"),
        (
            [{"role": "user", "content": json.loads('"\\ud800"')}],
            "unreadable",
            "half a surrogate pair (U+D800) is not text: \\ud800",
        ),
    ],
)
def test_malformed_messages(messages: Any, reason: str, detail: str) -> None:
    part = source("files", path="x", messages="chat")
    assert dialogue(part, Document("r.jsonl", record={"chat": messages}, item="1")) == Dropped(reason, detail)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text": "{a"}, "no partner"),
        ({"dialogue": {"user": "{}"}}, "without a name"),
        ({"text": " "}, "empty template"),
        ({"dialogue": {"user": "<|assistant|> {a}"}}, "cannot be written in a template"),
        ({"dialogue": ()}, "without turns"),
        ({"dialogue": ({"user": "x"}, {})}, "without turns"),
        ({"dialogue": {"user": "x"}, "messages": "m"}, "keep one"),
        ({"dialogue": {"robot": "x"}}, "robot"),
    ],
)
def test_settings_that_make_no_sense_are_found_without_data(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        source("files", path="x", **settings)


# -- preparation -----------------------------------------------------------------------------------------------------


def test_the_problems_of_all_sources_come_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "good.txt").write_text("fine " * 50)
    (tmp_path / "r.jsonl").write_text('{"a": "x"}\n' * 9)
    parts = {
        "bad": source("files", path="bad.jsonl"),
        "good": source("files", path="good.txt"),
        "shape": source("files", path="r.jsonl", text="{b}"),
    }
    mixture = {name: 33 + (name == "bad") for name in parts}
    with pytest.raises(DataError) as caught:
        prepare(plan_of(tmp_path, parts, ("p", "pretrain", mixture, "1 steps")))
    assert {p.path[:3] for p in caught.value.problems} == {("data", "sources", "bad"), ("data", "sources", "shape")}
    assert len(caught.value.problems) == 2
    missing = {name: source("files", path=f"{name}.md") for name in ("x", "y")}
    with pytest.raises(DataError) as caught:
        prepare(plan_of(tmp_path, missing, ("p", "pretrain", {"x": 50, "y": 50}, "1 steps")))
    assert [p.path for p in caught.value.problems] == [("data", "sources", n, "path") for n in ("x", "y")]


def test_problems_of_layout_and_vocabulary(tmp_path: Path) -> None:
    parts = {"a": source("inline", documents=("hello world",)), "b": source("inline", documents=("hello " * 40,))}
    both = ("p", "pretrain", {"a": 50, "b": 50}, "1 steps")
    with pytest.raises(DataError, match=r"phases\.p\.mixture\.a: a has 12 training tokens, and one block has 64"):
        prepare(plan_of(tmp_path, parts, both, context=64))
    again = ("q", "pretrain", {"b": 100}, "9 epochs of b")
    with pytest.raises(DataError) as caught:
        prepare(plan_of(tmp_path, parts, both, again, context=64))
    assert [p.path[1] for p in caught.value.problems] == ["p", "q"]
    assert "max_epochs: 9" in caught.value.problems[1].hint
    with pytest.raises(DataError, match=r"tokenizer\.vocab: the training text yields only"):
        prepare(plan_of(tmp_path, parts, both, context=8, tokenizer=tokenizers.TABLE["bpe"](vocab=4000)))


@pytest.mark.parametrize("how", ["hash 1%", "tail 1%", "files *.md"])
def test_a_validation_that_takes_nothing_is_named(tmp_path: Path, how: str) -> None:
    parts = {"a": source("inline", records=({"a": "x" * 40}, {"a": "y" * 40}), validation=how)}
    with pytest.raises(DataError, match="leaves nothing to validate with") as caught:
        prepare(plan_of(tmp_path, parts, ("p", "pretrain", {"a": 100}, "1 steps"), context=8))
    assert caught.value.problems[0].path == ("data", "sources", "a", "validation")


def test_validation_dialogues_that_never_fit_are_named(tmp_path: Path) -> None:
    records = tuple({"a": "x" * (4 if i < 8 else 90), "i": str(i)} for i in range(10))
    shape = {"user": "{i}", "assistant": "{a}"}
    parts = {"a": source("inline", records=records, dialogue=shape, validation="tail 70%")}
    with pytest.raises(DataError, match=r"no token that this phase trains on \(2 too long\)"):
        prepare(plan_of(tmp_path, parts, ("p", "sft", {"a": 100}, "1 steps"), context=32))


def test_a_full_disk_is_named_and_leaves_nothing_behind(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {"a": source("inline", documents=("hello " * 40,))}
    plan = plan_of(tmp_path, parts, ("p", "pretrain", {"a": 100}, "1 steps"))

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(FileRows, "append", full)
        with pytest.raises(DataError, match="the disk is full") as caught:
            prepare(plan)
    assert "LLMSPEC_CACHE" in caught.value.problems[0].hint
    assert list((cache / "tokens").iterdir()) == []
    assert prepare(plan).stream("p").steps == 1
