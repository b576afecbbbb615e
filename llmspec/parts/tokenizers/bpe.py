"""Byte pair encoding (Sennrich et al. 2016, section 3.2) over bytes (Radford et al. 2019, section 2.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

from llmspec.core.problems import Problem
from llmspec.parts.tokenizers import learner
from llmspec.parts.tokenizers.base import VOCAB_FIELD
from llmspec.parts.tokenizers.trained import TrainedTokenizer

_SHAPE = {
    "truncation": None,
    "padding": None,
    "normalizer": None,
    "post_processor": None,
    "decoder": "ByteLevel",
    "model": "BPE",
}
"""What `train` makes a tokenizer of, by the type of each of its pieces: others would change or cut texts."""


class BPE(TrainedTokenizer):
    """Byte-level byte pair encoding with GPT-2's pre-tokenizer, trained on the mixture."""

    kind: Literal["bpe"] = "bpe"
    algorithm: ClassVar[learner.Algorithm] = "bpe"
    vocab: int = VOCAB_FIELD
    """Number of ids: special tokens, 256 bytes, and one for each merge."""

    def check(self) -> Iterable[Problem]:
        n = len(self.specials())
        yield from self._check_room(self.vocab, n + 256, f"its {n} special tokens and the 256 bytes")

    def _is_ours(self, saved: dict[str, Any]) -> bool:
        pieces = {key: saved[key] and saved[key].get("type", "?") for key in _SHAPE}
        return pieces == _SHAPE and _cuts_as_ours(saved)


def _cuts_as_ours(saved: dict[str, Any]) -> bool:
    """Whether a tokenizer.json cuts text as one that is trained now, or as those of earlier versions."""
    made = json.loads(learner.empty("bpe", {}).to_str())
    found = saved["pre_tokenizer"]
    return bool(found == made["pre_tokenizer"] or found["type"] == "ByteLevel")
