"""Tokenizers out of metadata beside plain references: merges by scores, the best path of a Unigram, special tokens."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.tables import tables
from llmspec.formats.gguf.tokenizers import PLAIN_BPE, spelled
from llmspec.parts.tokenizers.base import Codec

LLAMA = tables()["llama"]
SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
LETTERS = "abcd" + SPACE
MERGED = {"ab": -1.0, "cd": -2.0, "aa": -3.0, f"{SPACE}a": -4.0, "abcd": -5.0, f"{SPACE}ab": -6.0, "aab": -7.0}
START = ["<unk>", "<s>", "</s>", "[x]"]
CODES = [f"<0x{i:02X}>" for i in range(256)]
FRAME = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "decoder": None}
TEXTS = st.text("abcd éX\n", max_size=20)


def scored(**changed: Any) -> dict[str, Any]:
    """A small SentencePiece BPE."""
    pieces = [*START, *CODES, *MERGED, *LETTERS]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [0.0] * 260 + list(MERGED.values()) + [-100.0] * len(LETTERS),
        "tokenizer.ggml.token_type": [2, 3, 3, 4] + [BYTE] * 256 + [NORMAL] * (len(pieces) - 260),
        **{f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("unknown", "bos", "eos"))},
        **changed,
    }


UNIGRAM = {
    SPACE: -2.0,
    "a": -3.0,
    "b": -3.5,
    "c": -4.0,
    "d": -4.5,
    "ab": -4.0,
    f"{SPACE}a": -3.3,
    "bcd": -7.0,
    "cd": -6.0,
}


def unigram(**changed: Any) -> dict[str, Any]:
    """A small SentencePiece Unigram."""
    pieces = ["<pad>", "</s>", "<unk>", "[x]", *UNIGRAM]
    return {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [0.0] * 4 + list(UNIGRAM.values()),
        "tokenizer.ggml.token_type": [3, 3, 2, 4] + [NORMAL] * len(UNIGRAM),
        **{f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("padding", "eos", "unknown"))},
        "tokenizer.ggml.add_space_prefix": True,
        **changed,
    }


def codec_of(folder: Path, tokenizer: dict[str, Any]) -> Codec:
    """The codec of a file with this tokenizer."""
    own = {k: v for k, v in gguf_files.metadata(LLAMA).items() if not k.startswith("tokenizer.")}
    _, tensors = gguf_files.small_model(LLAMA, **tokenizer)
    stored = GGUFFile(gguf_files.write(folder / "small.gguf", {**own, **tokenizer}, tensors))
    found: Codec = stored.tokenizer(stored.plan())
    return found


@pytest.fixture(scope="module")
def by_scores(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return codec_of(tmp_path_factory.mktemp("scores"), scored())


@pytest.fixture(scope="module")
def best_path(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return codec_of(tmp_path_factory.mktemp("unigram"), unigram())


def merged(text: str) -> list[str]:
    """google/sentencepiece, bpe_model.cc, slowly: of all neighbours those of the highest score, from the left."""
    parts = list(f"{SPACE}{text}".replace(" ", SPACE)) if text else []
    while True:
        pairs = [(-MERGED[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in MERGED]
        if not pairs:
            return parts
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


@given(TEXTS)
@settings(max_examples=80, deadline=None)
def test_merges_go_by_scores(by_scores: Codec, text: str) -> None:
    pieces = [*START, *CODES, *MERGED, *LETTERS]
    wanted = []
    for piece in merged(text):
        wanted += [pieces.index(piece)] if piece in pieces else [4 + byte for byte in piece.encode()]
    assert by_scores.encode([text])[0] == wanted
    assert by_scores.decode(wanted) == text


@given(TEXTS)
@settings(max_examples=80, deadline=None)
def test_the_path_is_the_best_there_is(best_path: Codec, text: str) -> None:
    if not text.strip(" "):
        return  # a text of spaces alone
    whole = f"{SPACE}{text}".replace(" ", SPACE)
    lowest = min(UNIGRAM.values()) - 10
    best = [0.0] + [-math.inf] * len(whole)
    for end in range(1, len(whole) + 1):
        for begin in range(end):
            piece = whole[begin:end]
            score = UNIGRAM.get(piece, lowest if len(piece) == 1 else -math.inf)
            best[end] = max(best[end], best[begin] + score)
    pieces = ["<pad>", "</s>", "<unk>", "[x]", *UNIGRAM]
    unknown = sum(1 for c in whole if c not in UNIGRAM)
    found = [pieces[i] for i in best_path.encode([text])[0]]
    score = sum(UNIGRAM[p] for p in found if p != "<unk>") + lowest * unknown
    assert score == pytest.approx(best[-1])


@pytest.mark.parametrize("made", [gguf_files.tokenizer, scored, unigram])
def test_text_spells_no_special_token(made: Any, tmp_path: Path) -> None:
    codec = codec_of(tmp_path, made())
    special = {i for spelling, i in codec.specials.items() if spelling != "<unk>"}
    assert special
    for spelling in codec.specials:
        assert not special & {*codec.encode([f"a{spelling}b"])[0]}


@pytest.mark.parametrize(
    ("made", "changed", "before", "after"),
    [
        (gguf_files.tokenizer, {}, (0,), ()),
        (gguf_files.tokenizer, {"tokenizer.ggml.add_bos_token": False}, (), ()),
        (gguf_files.tokenizer, {"tokenizer.ggml.add_eos_token": True}, (0,), (1,)),
        (scored, {}, (1,), ()),
        (scored, {"tokenizer.ggml.add_bos_token": False}, (), ()),
        (unigram, {}, (), (1,)),
    ],
)
def test_what_stands_around_a_text(
    made: Any, changed: dict[str, Any], before: tuple[int, ...], after: tuple[int, ...], tmp_path: Path
) -> None:
    codec = codec_of(tmp_path, {**made(), **changed})
    assert (codec.specials.before, codec.specials.after) == (before, after)
    assert (codec.specials.bos,) == (before or (None,))


@given(
    st.lists(st.text("ab #", min_size=1, max_size=5) | st.just("#version"), min_size=2, max_size=6, unique=True),
    st.randoms(),
)
def test_merges_mean_the_same_in_either_spelling(parts: list[str], random: Any) -> None:
    pairs = [list(pair) for pair in pairwise(parts)]
    random.shuffle(pairs)
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*parts, *map("".join, pairs)]))}
    opened = [
        Tokenizer.from_str(json.dumps({**FRAME, "model": {**PLAIN_BPE, "vocab": vocab, "merges": merges}})).to_str()
        for merges in (pairs, spelled(pairs))
    ]
    assert opened[0] == opened[1]
    assert json.loads(opened[0])["model"]["merges"] == pairs
