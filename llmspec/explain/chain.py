"""The chain of decoding filters and what it does to a distribution, on an example that is always the same."""

from __future__ import annotations

from dataclasses import dataclass

from llmspec.explain.report import described
from llmspec.spec.decoding import Decoding

EXAMPLE_TOKENS = 1000
SHOWN = 24
"""Tokens of the example whose probabilities are kept, the most probable ones."""


@dataclass(frozen=True)
class Effect:
    """A distribution after one filter of the chain; the first is the model's own."""

    filter: str
    settings: str
    entropy_bits: float
    kept: int
    """Tokens that can still be drawn."""
    best: tuple[float, ...]
    """Probabilities of the tokens that the model itself holds most probable."""


@dataclass(frozen=True)
class ChainReport:
    """How a text is drawn and when it ends, with the effect on an example distribution."""

    example: str
    effects: tuple[Effect, ...]
    max_tokens: int
    stop: tuple[str, ...]


def chain_settings(decoding: Decoding) -> tuple[tuple[str, str], ...]:
    """(name, settings in words) of the filters that are on, in their order."""
    found = []
    for part in decoding.chain():
        idle = [key for key, field in type(part).model_fields.items() if getattr(part, key) == field.default]
        found.append((part.kind, described(part, *idle).removeprefix(f"{part.kind} ")))
    return tuple(found)


def chain_report(decoding: Decoding) -> ChainReport:
    """What each filter leaves of a Zipf distribution (probability ∝ 1/rank), as words and tokens roughly follow."""
    import numpy as np

    from llmspec.decoding.chain import entropy_bits, probabilities, trace
    from llmspec.parts.filters import Context

    logits = -np.log(np.arange(1, EXAMPLE_TOKENS + 1, dtype=np.float64))
    # The best token once in the prompt and twice in the text, the second once in the text: penalties need a past.
    context = Context(np.array([0], np.int64), np.array([0, 1, 0], np.int64))
    steps = trace(logits, context, decoding.chain())
    named = [("", ""), *chain_settings(decoding)]
    found = [probabilities(logits), *(step.after for step in steps)]
    effects = tuple(
        Effect(name, settings, float(entropy_bits(p)), int(np.count_nonzero(p)), tuple(float(x) for x in p[:SHOWN]))
        for (name, settings), p in zip(named, found, strict=True)
    )
    example = f"{EXAMPLE_TOKENS:,} tokens with probability ∝ 1/rank; the first was drawn twice already, the second once"
    return ChainReport(example, effects, decoding.max_tokens, decoding.stop)
