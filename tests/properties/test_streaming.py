"""Texts that come in stretches are read, split, compared and tokenised as they would be whole."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from documents import split, stretches
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import cache, plan_of, source  # noqa: F401

from llmspec.core.problems import DataError
from llmspec.data import reading as reading_texts
from llmspec.data import writing
from llmspec.data.checks import traits
from llmspec.data.contamination import Alike, alike
from llmspec.data.prepare import prepare
from llmspec.data.split import cut, joined
from llmspec.data.survey import Changed, survey, walk
from llmspec.data.tokens import TokenSet, encode_texts
from llmspec.data.writing import Cutter, FileRows, MemoryRows, TokenWriter
from llmspec.parts.sources import Validation, readers
from llmspec.parts.templates.base import Marker
from llmspec.parts.tokenizers import TABLE as TOKENIZERS
from llmspec.parts.tokenizers.learner import LONGEST

quick = settings(deadline=None, max_examples=150)
SAMPLE = ["It's a  comet, isn't it?\n\n Yes: 3.14 of them - they'll glow.  \n\tNaïve 彗星 и кометы! "] * 3
PARTS: dict[str, Any] = {
    "byte": TOKENIZERS["byte"](),
    "char": TOKENIZERS["char"](vocab=40),
    "bpe": TOKENIZERS["bpe"](vocab=300),
}
CODECS = {kind: part.train(SAMPLE) for kind, part in PARTS.items()}
pieces = st.one_of(
    st.text(st.sampled_from("ab'slld 1!\n\t\u3000\u00a0é彗\u200b\u0301"), max_size=40),
    st.sampled_from([" ", "\n", "a", "1", "!", "é", "'", "'ll", " \n", "\u0301", "彗"]).flatmap(
        lambda unit: st.integers(1, 3 * LONGEST).map(lambda n: unit * n)
    ),
)
long_texts = st.lists(pieces, min_size=1, max_size=8).map("".join)
places = st.lists(st.integers(1, 900), max_size=5)


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PARTS)
@given(text=long_texts, ends=places, size=st.integers(2 * LONGEST + 8, 600))
@quick
def test_pieces_have_the_tokens_of_the_whole(kind: str, text: str, ends: list[int], size: int) -> None:
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "PIECE", size)
        cutter = Cutter(PARTS[kind].cut)
        for item in stretches(text, ends):
            found += cutter.push(item.text)
        found += cutter.end()
    assert "".join(found) == text and all(len(piece) <= size for piece in found)
    whole, _ = CODECS[kind].encode_flat([text])
    ids, lengths = CODECS[kind].encode_flat(found)
    assert ids.tolist() == whole.tolist() == CODECS[kind].encode([text])[0] and len(lengths) == len(found)


@pytest.mark.parametrize("kind", PARTS)
@given(texts=st.lists(long_texts, max_size=5), ends=places, at_once=st.integers(1, 500))
@quick
def test_token_files_are_those_of_whole_texts(
    kind: str, texts: list[str], ends: list[int], at_once: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, codec = tmp_path_factory.mktemp("tokens"), CODECS[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "PIECE", 300)
        patch.setattr(writing, "CHARACTERS_AT_ONCE", at_once)
        writer = TokenWriter(
            codec, lambda field, type_, shape: FileRows(folder / f"x.{field}.npy", type_, shape), PARTS[kind].cut, None
        )
        for text in texts:
            for item in stretches(text, ends):
                writer.text((item.text,), item.document.more)
        counts = writer.close()
    read = TokenSet.load(folder, "x")
    assert counts["documents"] == len(texts) == len(read.lengths)
    assert counts["tokens"] == len(read.tokens) and counts["characters"] == sum(map(len, texts))
    for i, text in enumerate(texts):
        assert read.tokens[read.offsets[i] : read.offsets[i + 1]].tolist() == codec.encode([text])[0]
    assert read.characters.tolist() == [[len(text)] for text in texts]
    whole = encode_texts(codec, [(text,) for text in texts])
    for field in ("tokens", "offsets", "characters"):
        np.save(folder / "again.npy", getattr(whole, field))
        assert (folder / "again.npy").read_bytes() == (folder / f"x.{field}.npy").read_bytes()


def test_markers_stay_between_pieces() -> None:
    part = TOKENIZERS["bpe"](vocab=300, markers=("<|m|>",))
    codec = part.train(SAMPLE)
    writer = TokenWriter(codec, lambda field, kind, shape: MemoryRows(kind, shape), part.cut, None)
    writer.text((Marker("<|m|>"), "a b", Marker("<|m|>"), "c"))
    writer.close()
    mark = codec.specials["<|m|>"]
    assert writer.arrays["tokens"].tolist() == [mark, *codec.encode(["a b"])[0], mark, *codec.encode(["c"])[0]]
    assert writer.arrays["characters"].tolist() == [[4]]


@pytest.mark.parametrize("unit", ["a", "1", "!", " ", "\n", "\u3000", "彗", "é"])
def test_no_word_is_longer_than_the_bound(unit: str) -> None:
    words = [word for word, _ in PARTS["bpe"].train(SAMPLE)._tokenizer.pre_tokenizer.pre_tokenize_str(unit * 1000)]
    assert max(len(word) for word in words) <= (LONGEST + 1) * len(unit.encode())


def test_ordinary_text_has_the_words_of_gpt2() -> None:
    from tokenizers import pre_tokenizers

    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    ours = CODECS["bpe"]._tokenizer.pre_tokenizer
    for text in [*SAMPLE, Path(__file__).read_text("utf-8"), "-" * LONGEST, " " * LONGEST + "x", "a" * LONGEST]:
        assert ours.pre_tokenize_str(text) == gpt2.pre_tokenize_str(text)


# -- keys and splits -------------------------------------------------------------------------------------------------


@given(text=st.text(st.sampled_from("aB.,'“ß\u00a0\u200b\u0301e \n\t.)…"), max_size=60), ends=places)
@settings(deadline=None, max_examples=400)
def test_likeness_of_stretches_is_that_of_the_text(text: str, ends: list[int]) -> None:
    found = Alike()
    for item in stretches(text, [end % 60 for end in ends]):
        found.add(item.text)
    assert found.digest() == alike(text)


@given(
    text=st.text(st.sampled_from("ab \n"), min_size=1, max_size=80),
    other=st.text("ab\n ", min_size=1, max_size=30),
    ends=st.lists(st.integers(1, 80), max_size=5),
    percent=st.integers(1, 99),
    how=st.sampled_from(["tail", "hash"]),
)
@settings(deadline=None, max_examples=400)
def test_stretches_are_split_as_the_text_is(text: str, other: str, ends: list[int], percent: int, how: str) -> None:
    found: list[Any] = []
    for parts in ([*stretches(text, []), *stretches(other, [])], [*stretches(text, ends), *stretches(other, ends)]):
        try:
            sides = split(parts, Validation.parse(f"{how} {percent}%"))
        except DataError as error:
            found.append(str(error))
            continue
        found.append([[item.text for item in joined(side)] for side in sides])
        keys = survey(lambda parts=parts: iter(parts), Validation.parse(f"{how} {percent}%"))  # type: ignore[misc]
        for side in (0, 1):
            numbers = np.flatnonzero(keys.on(side))
            assert [alike(item) for item in found[-1][side]] == [
                key.ljust(16, b"\0") for key in keys.keys(side)[numbers].tolist()
            ]
    assert found[0] == found[1]


@given(documents=st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=30))
@quick
def test_traits_are_shared_by_equal_documents(documents: list[list[int]]) -> None:
    offsets = np.cumsum([0, *map(len, documents)])
    tokens = np.array([t for document in documents for t in document], np.uint16)
    found = traits(TokenSet(tokens, offsets, np.zeros((len(documents), 1), np.int64))).tolist()
    of = {tuple(document): trait for document, trait in zip(documents, found, strict=True)}
    assert all(of[tuple(document)] == trait for document, trait in zip(documents, found, strict=True))
    # Those of up to three tokens are all different.
    short = {trait for document, trait in of.items() if len(document) <= 3}
    assert len(short) == sum(len(document) <= 3 for document in of)


def cut_whole(text: str, near: int) -> int:
    """At the first line end from `near` on; without one before more text, after the last before it, or at `near`."""
    at = text.find("\n", near - 1) + 1
    if not at or not text[at:].strip():
        at = text.rfind("\n", 0, near) + 1
    return at if text[:at].strip() else near


@given(text=st.text(st.sampled_from("ab \n"), min_size=2, max_size=60).filter(str.strip), ends=places, data=st.data())
@settings(deadline=None, max_examples=400)
def test_a_text_is_cut_at_a_line_end(text: str, ends: list[int], data: st.DataObject) -> None:
    near = data.draw(st.integers(1, len(text) - 1))
    at = cut_whole(text, near)
    found = cut((item.text for item in stretches(text, [end % 60 for end in ends])), near)
    assert found == (at, bool(text[:at].strip()), bool(text[at:].strip()))


@pytest.mark.parametrize("later", [["ab"], ["ab", "c", "d"], ["ab", "cd"], ["a", "c"], []])
def test_other_documents_in_a_later_pass_are_noticed(later: list[str]) -> None:
    first, second = ([stretches(text, [])[0] for text in texts] for texts in (["ab", "c"], later))
    found = survey(lambda: iter(first), None)
    assert [item for _, _, item in walk(lambda: iter(first), found)] == first
    with pytest.raises(Changed):
        list(walk(lambda: iter(second), found))


# -- from files ------------------------------------------------------------------------------------------------------


def prepared_of(folder: Path, **settings: Any) -> Any:
    parts = {"a": source("files", path="*.txt", **settings)}
    return prepare(
        plan_of(
            folder, parts, ("p", "pretrain", {"a": 100}, "1 steps"), context=8, tokenizer=TOKENIZERS["bpe"](vocab=300)
        )
    )


@pytest.mark.parametrize("validation", ["tail 20%", "hash 50%", "files b.txt", None])
def test_a_long_file_is_prepared_as_if_it_were_short(
    validation: str | None,
    tmp_path: Path,
    cache: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(1)
    for name in "abcd":
        words = rng.integers(0, 50, 3000)
        (tmp_path / f"{name}.txt").write_text(" ".join(f"word{w}é" if w % 7 else "line\n" for w in words), "utf-8")
    hashes = []
    for _ in range(2):
        found = prepared_of(tmp_path, **({"validation": Validation.parse(validation)} if validation else {}))
        ((_, *sides),) = found.sides()["plain"]
        hashes.append(
            [
                found.codec.to_json(),
                found.measured.sources[0],
                *(hashlib.sha256(x.tobytes()).hexdigest() for s in sides for x in s[:3]),
            ]
        )
        monkeypatch.setattr("llmspec.data.builder.FORMAT", -1)
        monkeypatch.setattr(readers, "STRETCH", 1000)
        monkeypatch.setattr(writing, "PIECE", 600)
        monkeypatch.setattr(writing, "CHARACTERS_AT_ONCE", 2000)
    assert hashes[0] == hashes[1]


def test_no_more_is_read_anew_than_asked_for(tmp_path: Path, cache: Path) -> None:  # noqa: F811
    (tmp_path / "a.txt").write_text("some text, some more of it\n" * 400)
    plan = plan_of(tmp_path, {"a": source("files", path="a.txt")}, ("p", "pretrain", {"a": 100}, "1 steps"), context=8)
    with pytest.raises(DataError, match="characters of a are not tokenised yet") as caught:
        prepare(plan, most=10_000)
    assert caught.value.problems[0].path == ("data", "sources", "a") and "check SPEC --data" in str(caught.value)
    assert prepare(plan).measured == prepare(plan, most=10_000).measured


@pytest.mark.parametrize("change", ["longer", "shorter", "other", "more", "fewer"])
def test_a_file_that_changes_while_it_is_read_is_noticed(
    change: str,
    tmp_path: Path,
    cache: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [tmp_path / f"{name}.jsonl" for name in "ab"]
    for file in files:
        file.write_text("".join(json.dumps({"t": f"{file.name} {i}"}) + "\n" for i in range(40)))
    inner = reading_texts.find_contamination

    def meanwhile(readings: Any) -> None:
        inner(readings)
        text = files[1].read_text()
        if change == "fewer":
            files[1].write_text(text[text.index("\n") + 1 :])
        elif change == "more":
            files[1].write_text(text + text[: text.index("\n") + 1])
        else:
            files[1].write_text(text.replace("39", {"longer": "390", "shorter": "3", "other": "38"}[change]))

    monkeypatch.setattr(reading_texts, "find_contamination", meanwhile)
    parts = {"a": source("files", path="*.jsonl")}
    with pytest.raises(DataError, match=r"changed while (they were|it was) read") as caught:
        prepare(plan_of(tmp_path, parts, ("p", "pretrain", {"a": 100}, "1 steps"), context=8))
    assert caught.value.problems[0].path == ("data", "sources", "a")
    assert not list((cache / "tokens").glob("[!.]*")) and not list(cache.rglob(".new-*"))


MEASURED = """
import sys
from pathlib import Path
import test_sources as t
from llmspec.forecast.process_memory import peak_bytes
from llmspec.parts import tokenizers
kind, name, settings = sys.argv[1], sys.argv[2], {"bpe": {"vocab": 500}}
part = tokenizers.TABLE[kind](**settings.get(kind, {}))
plan = t.plan_of(Path.cwd(), {"a": t.source("files", path=name, validation="tail 10%")},
                 ("p", "pretrain", {"a": 100}, "1 steps"), context=64, tokenizer=part)
found = t.prepare(plan).measured.sources[0]
print(found.train_tokens, peak_bytes() // 2**20)
"""


@pytest.mark.parametrize(
    ("kind", "name", "size", "most"),
    [
        ("byte", "a.txt", 12, 200),
        ("byte", "a.jsonl", 6, 200),
        pytest.param("bpe", "a.txt", 100, 400, marks=pytest.mark.nightly),
    ],
)
def test_memory_does_not_grow_with_the_text(
    kind: str,
    name: str,
    size: int,
    most: int,
    tmp_path: Path,
    cache: Path,  # noqa: F811
) -> None:
    """`size` million characters in one file; at most `most` MB, of which Python and numpy take 60."""
    written = number = 0
    with (tmp_path / name).open("w", encoding="utf-8") as file:
        while written < size * 1_000_000:
            number += 1
            text = f"number {number} of many, é{number * number}"
            written += file.write((text if name == "a.txt" else json.dumps({"text": text})) + "\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, kind, name], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    tokens, megabytes = map(int, done.stdout.split())
    assert tokens > size * 100_000 and megabytes < most, megabytes
