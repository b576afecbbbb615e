"""SentencePiece's models as tokenizer.json (google/sentencepiece; Kudo & Richardson 2018, arXiv:1808.06226)."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

from llmspec.formats.gguf.tokens import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Piece

SPACE = "▁"
"""What stands for a space in pieces."""
LOOKS = 1 << 30
"""Characters of all parts of pieces that are looked up for merges, at most."""
MOST_MERGES = 1 << 21
"""Merges of a vocabulary, at most; those of 256,000 pieces are 0.6 million."""


class Unmergeable(ValueError):
    """Pieces whose merges are not looked for; its text says why."""


def by_scores(pieces: Sequence[Piece], unknown: str | None, spaced: bool, special: set[int]) -> dict[str, Any]:
    """BPE that merges the neighbours whose joint piece has the highest score, over all of a text.

    Args:
        pieces: the vocabulary in the order of its ids.
        unknown: spelling of the piece for what cannot be spelled; bytes come first where the vocabulary has them.
        spaced: whether a space is put before a text.
        special: ids that no text spells, and no merge makes.
    """
    bytes_too = any(piece.kind == BYTE for piece in pieces)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": bytes_too,
        "ignore_merges": False,
        "vocab": {piece.text: i for i, piece in enumerate(pieces)},
        "merges": merges(pieces, special),
    }
    return {**_around(spaced), "pre_tokenizer": None, "model": model}


def merges(pieces: Sequence[Piece], special: Iterable[int] = ()) -> list[list[str]]:
    """Every pair of pieces that make a third, the highest score of that first, then the lowest id. Raises Unmergeable
    for pieces of which that would take too long, or too much."""
    kept = {*special}
    own = {
        piece.text: i for i, piece in enumerate(pieces) if i not in kept and piece.kind not in (BYTE, CONTROL, UNKNOWN)
    }
    if sum(len(text) ** 2 for text in own) > LOOKS:
        raise Unmergeable("its pieces are so long that looking for their merges would take minutes")
    found = []
    for text, i in own.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in own and right in own:
                found.append((-pieces[i].score, i, [left, right]))
        if len(found) > MOST_MERGES:
            raise Unmergeable(f"its pieces make more than {MOST_MERGES:,} merges")
    found.sort(key=lambda one: one[:2])
    return [pair for _, _, pair in found]


def unigram(
    pieces: Sequence[Piece], unknown: int | None, charsmap: bytes | None, spaced: bool, squeezed: bool
) -> dict[str, Any]:
    """The pieces of a text whose scores have the largest sum.

    Args:
        pieces: the vocabulary in the order of its ids.
        unknown: id of the piece for what cannot be spelled.
        charsmap: which characters become which before, as SentencePiece compiles it.
        spaced: whether a space is put before a text.
        squeezed: whether of several spaces one is left.
    """
    around = _around(spaced)
    before: list[dict[str, Any]] = []
    if charsmap is not None:
        before.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()})
    if squeezed:
        before += [_replaced({"Regex": r"\A +| +\z"}, ""), _replaced({"Regex": " {2,}"}, " ")]
    lowest = min((piece.score for piece in pieces if piece.kind == NORMAL), default=0.0)
    vocab = [[p.text, 0.0 if p.kind == USER_DEFINED else lowest if p.kind == BYTE else p.score] for p in pieces]
    model = {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": vocab,
        "byte_fallback": any(piece.kind == BYTE for piece in pieces),
    }
    around["normalizer"]["normalizers"] = [*before, *around["normalizer"]["normalizers"]]
    return {**around, "pre_tokenizer": None, "model": model}


def _replaced(pattern: dict[str, str], by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": by}


def _around(spaced: bool) -> dict[str, Any]:
    """Spaces as pieces have them, and back."""
    to = _replaced({"String": " "}, SPACE)
    back: list[dict[str, Any]] = [
        _replaced({"String": SPACE}, " "),
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if spaced:
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*([{"type": "Prepend", "prepend": SPACE}] if spaced else []), to],
        },
        "decoder": {"type": "Sequence", "decoders": back},
    }
