"""What is checked of texts whose tokens are hidden and predicted: places, what stands there, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llmspec.compiler.checks import HIDDEN, Check
from llmspec.data.framed import Around
from llmspec.data.layout import Batch
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData

LOOKED_AT = 4
"""Steps of each phase that are looked at."""


def hiding(prepared: PreparedData) -> tuple[Check, ...]:
    """Of each phase that predicts hidden tokens, the first steps as they will be read."""
    found, counted = list[Check](), list[str]()
    for name in prepared.phases:
        stream = prepared.stream(name)
        if not stream.phase.objective.drawn:
            continue
        inputs, chosen, free, masked = prepared.inputs(name), 0, 0, 0
        for step in range(min(LOOKED_AT, stream.steps)):
            plain = stream.batch(step)
            asked = inputs.asked(plain, step, 0)
            framing = "" if stream.around is None else torn(plain, stream.around)
            if wrong := framing or mistake(plain, asked, prepared.codec.specials):
                at_fault = "layout in llmspec/data/framed.py" if framing else "objective in llmspec/parts/objectives"
                hint = f"the {at_fault} is at fault, not your spec"
                path = ("phases", name, "objective")
                found.append(Check(name=HIDDEN, holds=False, path=path, evidence=f"{name}: {wrong}", hint=hint))
                break
            chosen += int(np.count_nonzero(asked.weights))
            masked += int(np.count_nonzero((asked.weights > 0) & (asked.tokens == prepared.codec.specials.mask)))
            free += int(np.count_nonzero(text_of(plain, prepared.codec.specials)))
        counted.append(
            f"{name}: {chosen:,} of {free:,} tokens of the first steps, {masked / max(1, chosen):.0%} of them masked"
        )
    if not counted:
        return ()
    return tuple(found) or (Check(name=HIDDEN, holds=True, evidence="; ".join(counted)),)


def text_of(batch: Batch, specials: SpecialTokens) -> np.ndarray:
    """(B, T) bool: which tokens are text, neither padding nor special."""
    filled = np.arange(batch.tokens.shape[1]) < batch.filled[:, None]
    return filled & ~np.isin(batch.tokens, list(specials.values()))


def mistake(plain: Batch, asked: Batch, specials: SpecialTokens) -> str:
    """What is wrong with a batch some of whose tokens are to be predicted; '' where nothing is."""
    chosen, text = asked.weights > 0, text_of(plain, specials)
    if (chosen & ~text).any():
        return "a special token or padding is to be predicted"
    if (asked.tokens != plain.tokens)[~chosen].any():
        return "a token is changed that is not to be predicted"
    if (asked.targets != plain.tokens)[chosen].any():
        return "what is to be predicted is not what stood there"
    if text.any() and not chosen.any():
        return "no token of a whole batch is to be predicted"
    return ""


def torn(plain: Batch, around: Around) -> str:
    """What is wrong with rows of stretches of text between special tokens, read from these; '' where nothing is."""
    before, after = map(list, around)
    for row, filled in zip(plain.tokens, plain.filled.tolist(), strict=True):
        tokens = row[:filled].tolist()
        while tokens:
            ends = np.isin(tokens[len(before) :], [*before, *after])
            words = int(ends.argmax()) if ends.any() else len(ends)
            end = len(before) + words
            if tokens[: len(before)] != before or tokens[end : end + len(after)] != after:
                return "text does not stand between the special tokens"
            if not words:
                return "there is no text between two special tokens"
            tokens = tokens[end + len(after) :]
    return ""
