"""Which characters become which before a text is cut: SentencePiece's compiled map (google/sentencepiece,
normalizer.cc), held against what the `tokenizers` library will look up in it.

Four bytes say how long a trie is, the trie follows (s-yata/darts-clone, a double array of 32-bit units), and behind it
the texts that others become, each ended by a zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmspec.core.problems import RunError
from llmspec.formats.gguf.reading import Numbers
from llmspec.formats.gguf.tokens import damaged_tokens

if TYPE_CHECKING:
    import numpy as np

KEY = "precompiled_charsmap"
"""What stands behind `tokenizer.ggml.` for it."""
LARGEST = 4 << 20
"""Bytes of a map, at most; that of NFKC has 0.3 million."""
_AT_ONCE = 2048
_LEAF = 1 << 31


def read(values: Mapping[str, Any], file: str) -> bytes | None:
    """The map of what stands behind `tokenizer.ggml.`; None where there is none. Raises RunError for one in which a
    text could be looked up outside of it."""
    found = values.get(KEY)
    if found is None:
        return None
    if not (isinstance(found, Numbers) and found.layout in ("<b", "<B")):
        raise RunError(f"{file}: `tokenizer.ggml.{KEY}` is no array of bytes")
    raw = found.array().tobytes()
    if not raw:  # of a tokenizer that leaves characters as they are
        return None
    if why := wrong(raw):
        raise damaged_tokens(file, f"`tokenizer.ggml.{KEY}` {why}")
    return raw


def wrong(raw: bytes) -> str:
    """What is wrong with a map, as the rest of a sentence; '' where every text can be looked up in it."""
    import numpy as np

    if len(raw) > LARGEST:
        return f"has {len(raw):,} bytes, and {LARGEST:,} are read at most"
    size = int.from_bytes(raw[:4], "little")
    if not 0 < size <= len(raw) - 4 or size % 4:
        return f"has a trie of {size:,} bytes, and it has {len(raw):,} itself"
    texts = raw[4 + size :]
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"has texts that are not UTF-8 (byte {4 + size + error.start:,})"
    begins = np.append((np.frombuffer(texts, np.uint8) & 0xC0) != 0x80, True)
    return _lost(np.frombuffer(raw, "<u4", size // 4, 4).astype(np.int64), begins)


def _lost(units: np.ndarray, begins: np.ndarray) -> str:
    """Goes every way through a trie as its lookup does; `begins` says where in the texts a character begins."""
    import numpy as np

    outside = "leads outside of its trie"
    letters, seen = np.arange(1, 256), np.zeros(len(units) + 256, bool)
    waiting = _target(np.zeros(1, np.int64), units[:1])
    while len(waiting):
        now, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        reached = now[:, None] ^ letters
        if reached.max() >= len(units):
            return outside
        found = units[reached]
        follows = (found & (_LEAF | 0xFF)) == letters
        at, unit = reached[follows], found[follows]
        after = _target(at, unit)
        ends = after[(unit >> 8) & 1 == 1]
        if len(ends) and ends.max() >= len(units):
            return outside
        texts = units[ends] & (_LEAF - 1)
        if len(texts) and (texts.max() >= len(begins) or not begins[texts].all()):
            return "leads outside of its texts"
        if len(after) and after.max() >= len(seen):
            return outside
        after = np.unique(after)
        after = after[~seen[after]]
        seen[after] = True
        waiting = np.concatenate([waiting, after])
    return ""


def _target(at: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Where the children of units begin."""
    return at ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6))
