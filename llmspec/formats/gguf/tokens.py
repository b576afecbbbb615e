"""The vocabulary in metadata: pieces with their types and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmspec.core.problems import RunError
from llmspec.formats.gguf.reading import Numbers, Texts

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces, by their numbers in `tokenizer.ggml.token_type`."""
UNDEFINED = 0
KINDS = range(7)
LONGEST = 1 << 16
"""Bytes of a piece, at most."""


class Piece(NamedTuple):
    """A piece of the vocabulary; its place is its id."""

    text: str
    kind: int
    score: float


def pieces_of(values: Mapping[str, Any], file: str) -> tuple[Piece, ...]:
    """The vocabulary of what stands behind `tokenizer.ggml.`. Raises RunError where it is missing or damaged, and
    WrongGGUF for a text that is none."""
    tokens = values.get("tokens")
    if not isinstance(tokens, Texts) or not len(tokens):
        raise RunError(f"{file} has a tokenizer without pieces: `tokenizer.ggml.tokens` is missing")
    kinds = _beside(values, "token_type", len(tokens), NORMAL, file)
    scores = _beside(values, "scores", len(tokens), 0.0, file)
    texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(tokens)]
    for i, text in enumerate(texts):
        if 4 * len(text) > LONGEST and (size := len(text.encode())) > LONGEST:
            raise damaged_tokens(file, f"piece {i:,} has {size:,} bytes, and {LONGEST:,} are read at most")
    if len(set(texts)) < len(texts):
        first = dict[str, int]()
        twice = next(i for i, text in enumerate(texts) if first.setdefault(text, i) != i)
        raise damaged_tokens(file, f"ids {first[texts[twice]]:,} and {twice:,} are both {texts[twice][:40]!r}")
    if wrong := next((k for k in kinds if k not in KINDS), None):
        raise damaged_tokens(file, f"a piece is of type {wrong}, which there is not")
    if any(score != score for score in scores):
        raise damaged_tokens(file, "a piece has a score that is no number")
    return tuple(map(Piece, texts, kinds, scores))


def damaged_tokens(file: str, why: str) -> RunError:
    """The error for a vocabulary that cannot be one."""
    return RunError(f"{file} has a damaged tokenizer: {why}", hint="download it again, whole")


def _beside(values: Mapping[str, Any], name: str, count: int, usual: Any, file: str) -> list[Any]:
    """An array that has an item for each piece; the usual one for each where it is left out."""
    found = values.get(name)
    if found is None:
        return [usual] * count
    if not isinstance(found, Numbers) or found.layout == "?" or len(found) < count:
        raise damaged_tokens(file, f"`tokenizer.ggml.{name}` has no number for each of {count:,} pieces")
    if isinstance(usual, int) and found.layout[-1] in "fd":
        raise damaged_tokens(file, f"`tokenizer.ggml.{name}` has fractions, and types of pieces are whole numbers")
    return [type(usual)(n) for n in found.array()[:count].tolist()]


def added(pieces: Sequence[Piece], special: set[int]) -> list[dict[str, Any]]:
    """Pieces that are found in text before it is cut, or never, as tokenizer.json has them."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": i, "content": piece.text, **flags, "special": i in special}
        for i, piece in enumerate(pieces)
        if piece.kind == USER_DEFINED or i in special
    ]
