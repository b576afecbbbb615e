"""Metadata of GGUF files that are no network or no vocabulary: whatever stands where, it is a sentence with the file's
name, and where a list stands for a number also with the key; and nothing takes minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gguf_files
import numpy as np
import pytest
from test_gguf_tokenizers import scored, unigram

from llmspec.core.problems import RunError
from llmspec.formats.gguf import sentencepiece, tokens
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.metadata import read_metadata
from llmspec.formats.gguf.rope import FREQUENCIES
from llmspec.formats.gguf.tables import LM, tables
from llmspec.formats.gguf.tokens import Piece

LLAMA = tables()["llama"]
YARN = {
    "llama.rope.scaling.type": "yarn",
    "llama.rope.scaling.factor": 4.0,
    "llama.rope.scaling.original_context_length": 16,
}


def opened(folder: Path, changed: dict[str, Any], more: dict[str, np.ndarray] | None = None) -> GGUFFile:
    """A small model with other metadata, and further tensors."""
    fields, arrays = gguf_files.small_model(LLAMA)
    path = gguf_files.write(folder / "small.gguf", {**fields, **changed}, {**arrays, **(more or {})})
    stored = GGUFFile(path)
    stored.tokenizer(stored.plan())
    return stored


def said(folder: Path, changed: dict[str, Any], more: dict[str, np.ndarray] | None = None) -> str:
    """What is said of it; each message names the file."""
    with pytest.raises(RunError) as found:
        opened(folder, changed, more)
    for problem in found.value.problems:
        assert "small.gguf" in problem.message and len(problem.message) < 2000
    return " ".join(problem.message for problem in found.value.problems)


# -- numbers of the network --------------------------------------------------------------------------------------------
RULES = {**LLAMA.fields, **LLAMA.architectures[LM].fields}
NUMBERS = [
    *(name for name, rule in RULES.items() if rule.to and not name.startswith("@")),
    *(f"rope.{name}" for name in ("freq_base", "dimension_count")),
    *(f"rope.scaling.{name}" for name in ("factor", "original_context_length", "attn_factor")),
]
WRONG: dict[str, Any] = {
    "texts": ["a"],
    "many texts": ["a" * 9999] * 99,
    "numbers": [1, 2, 3],
    "fractions": [1.5, float("nan")],
    "truths": [True, False],
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_list_where_a_number_belongs_is_named_with_its_key(name: str, kind: str, tmp_path: Path) -> None:
    assert f"`{name}`" in said(tmp_path, {**YARN, f"llama.{name}": WRONG[kind]})


@pytest.mark.parametrize("value", ["a", True, -1.0, 0.0, 1e30, 0])
@pytest.mark.parametrize("name", NUMBERS)
def test_whatever_stands_where_a_number_belongs_opens_or_is_a_sentence(name: str, value: Any, tmp_path: Path) -> None:
    try:
        opened(tmp_path, {**YARN, f"llama.{name}": value})
    except RunError as error:
        assert all("small.gguf" in problem.message for problem in error.problems)


@pytest.mark.parametrize("kind", ["linear", "yarn"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("factor", value) for value in (0.0, -1.0, 0.5, True, "4")),
        *(("original_context_length", value) for value in (0, 0.5, True, "16")),
        *(("attn_factor", value) for value in (0.0, -1.0, True, "1")),
    ],
)
def test_a_scaling_that_cannot_be_is_named_with_its_key(kind: str, name: str, value: Any, tmp_path: Path) -> None:
    if kind == "linear" and name != "factor":
        return  # what does not scale is not looked at
    changed = {**YARN, "llama.rope.scaling.type": kind, "llama.rope.scaling.attn_factor": 0.5}
    changed = {k: v for k, v in changed.items() if kind == "yarn" or not k.endswith("attn_factor")}
    assert f"rope.scaling.{name}`" in said(tmp_path, {**changed, f"llama.rope.scaling.{name}": value})


FACTORS = {
    "below one": np.full(8, 0.5),
    "zero": np.zeros(8),
    "negative": np.full(8, -1.0),
    "two axes": np.ones((2, 4)),
    "beyond reason": np.full(8, 1e30),
    "too few": np.ones(3) * 4,
    "of nobody": np.linspace(1, 9, 8),
}


@pytest.mark.parametrize("what", FACTORS)
def test_factors_of_wavelengths_that_cannot_be_are_named(what: str, tmp_path: Path) -> None:
    assert FREQUENCIES in said(tmp_path, {}, {FREQUENCIES: FACTORS[what].astype(np.float32)})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_factors_of_wavelengths_that_are_no_numbers_are_named(number: float) -> None:
    for factors in ([number] * 8, [1.0] * 7 + [number], [[1.0], [number]]):
        found = read_metadata(gguf_files.metadata(LLAMA), (), factors, "small.gguf")  # type: ignore[arg-type]
        assert not isinstance(found, list)
        assert [FREQUENCIES in p.message and "small.gguf" in p.message for p in found.problems] == [True]


# -- pieces ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kinds", [[1.5], [float("nan")], [1.0], [float("inf")]])
def test_types_of_pieces_are_whole_numbers(kinds: list[float], tmp_path: Path) -> None:
    count = len(gguf_files.vocabulary())
    message = said(tmp_path, {"tokenizer.ggml.token_type": kinds * count})
    assert "`tokenizer.ggml.token_type`" in message


@pytest.mark.parametrize("made", [gguf_files.tokenizer, scored, unigram])
@pytest.mark.parametrize("letter", ["a", "é", "😀"])
def test_a_piece_beyond_reason_is_named(made: Any, letter: str, tmp_path: Path) -> None:
    own = made()
    places = own["tokenizer.ggml.tokens"]
    longest = tokens.LONGEST // len(letter.encode())
    for size, wrong in ((longest, False), (longest + 1, True)):
        changed = [*places[:-1], letter * size]
        fields, arrays = gguf_files.small_model(LLAMA, **own)
        path = gguf_files.write(
            tmp_path / "small.gguf",
            {**fields, **own, "tokenizer.ggml.tokens": changed, "tokenizer.ggml.merges": []},
            arrays,
        )
        if wrong:
            with pytest.raises(RunError, match=rf"small\.gguf.*piece {len(places) - 1:,} has [\d,]+ bytes"):
                GGUFFile(path).tokenizing  # noqa: B018
        else:
            try:
                GGUFFile(path).tokenizing  # noqa: B018
            except RunError as error:
                assert "read at most" not in str(error)


def pieces(texts: list[str]) -> list[Piece]:
    return [Piece(text, tokens.NORMAL, 0.0) for text in texts]


def test_long_pieces_are_not_cut_everywhere() -> None:
    began = time.process_time()
    with pytest.raises(sentencepiece.Unmergeable, match="so long"):
        sentencepiece.merges(pieces([f"{i}" + "a" * 60_000 for i in range(400)]))
    assert time.process_time() - began < 2


def test_merges_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a" * size for size in range(1, 90)]
    made = sentencepiece.merges(pieces(texts))
    assert len(made) == 89 * 88 // 2
    monkeypatch.setattr(sentencepiece, "MOST_MERGES", len(made))
    assert sentencepiece.merges(pieces(texts)) == made
    monkeypatch.setattr(sentencepiece, "MOST_MERGES", len(made) - 1)
    with pytest.raises(sentencepiece.Unmergeable, match="merges"):
        sentencepiece.merges(pieces(texts))


@pytest.mark.parametrize("limit", ["LOOKS", "MOST_MERGES"])
def test_pieces_without_merges_are_a_damaged_tokenizer(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, arrays = gguf_files.small_model(LLAMA, **scored())
    own = {k: v for k, v in fields.items() if not k.startswith("tokenizer.")}
    path = gguf_files.write(tmp_path / "small.gguf", {**own, **scored(**{"general.name": limit})}, arrays)
    monkeypatch.setattr(sentencepiece, limit, 1)
    with pytest.raises(RunError, match=r"small\.gguf has a damaged tokenizer: its pieces"):
        GGUFFile(path).tokenizing  # noqa: B018
