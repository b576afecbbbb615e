"""What hinders a phase that leaves spans out of text before any text is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmspec.compiler.masks import masks_of
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem
from llmspec.parts.phases import Phase
from llmspec.parts.tokenizers import Tokenizer
from llmspec.parts.tokenizers.special_tokens import SENTINELS

if TYPE_CHECKING:
    from llmspec.parts.phases.span_corruption import SpanCorruption


def wrong_network(phase: Phase, model: ModelPlan) -> Iterator[Problem]:
    """A network of whose tokens none sees all of a text with gaps, or all see what is to be predicted."""
    from llmspec.parts.phases.span_corruption import SpanCorruption

    masks = masks_of(model).values()
    if not isinstance(phase, SpanCorruption) or model.encoder is not None or all(mask.has_prefix for mask in masks):
        return
    name = next(mask.name for mask in masks if not mask.has_prefix)
    yield Problem(
        f"a phase of kind {phase.kind} reads a text with gaps before it says what stood there, and under the mask "
        f"{name} of this decoder no token reads all of it alone",
        ("kind",),
        "model.encoder: {}, which reads it; model.mask: {kind: prefix}; or kind: masked_lm for bidirectional masks",
        "what stands behind a gap could not be used to fill it, or the answer could be seen",
    )


def span_problems(phase: Phase, model: ModelPlan, tokenizer: Tokenizer | None) -> Iterator[Problem]:
    """Too few sentinels, and rows too short for any text."""
    from llmspec.parts.phases.span_corruption import SpanCorruption

    if not isinstance(phase, SpanCorruption) or tokenizer is None:
        return
    if phase.document_mask:
        yield Problem(
            "documents are not kept apart in rows of which spans are left out",
            ("document_mask",),
            "document_mask: false",
            "a row is a stretch of text, whatever documents it is of",
        )
    known = tokenizer.meanings()
    if not tokenizer.sentinels:
        yield Problem(
            f"a phase of kind {phase.kind} needs sentinel tokens, which stand for the spans that are left out, and the "
            "tokenizer has none",
            ("kind",),
            known.advice(SENTINELS),
            "it could not be said where something is missing",
        )
        return
    framed = len(known.before) + len(known.after) or 1  # a file of others says what it puts there once it is opened
    around = framed if model.encoder is not None else 1 + (known.bos is not None)
    if (unfit := unfit_rows(phase, model, around, tokenizer.sentinels, known.named)) is not None:
        yield unfit


def unfit_rows(phase: SpanCorruption, model: ModelPlan, around: int, sentinels: int, named: bool) -> Problem | None:
    """Why no text fits rows with `around` special tokens around it, or so few sentinels do not suffice; else None.
    `named`: others made the tokenizer, which has what it has."""
    size = phase.stretch(model.context, model.encoder_context, around)
    if size < 2:
        rows = f"{model.encoder_context} and {model.context}" if model.encoder_context else f"{model.context}"
        return Problem(
            f"no text fits rows of {rows} tokens with a span left out, and special tokens around both",
            ("kind",),
            "raise model.context" + (" and model.encoder.context" if model.encoder_context else ""),
            "there would be nothing to read",
        )
    count = phase.spans(size).number
    if count <= sentinels:
        return None
    more = "" if named else f"`sentinels: {count}` at the tokenizer, "
    return Problem(
        f"{count:,} spans are left out of each row of {size:,} tokens of text, and the tokenizer has {sentinels:,} "
        f"sentinel{'s' * (sentinels != 1)}",
        ("noise_density",) if "noise_density" in phase.model_fields_set else ("kind",),
        f"{more}a larger mean_noise_span_length, or a smaller noise_density",
        "two spans of a row would have the same sentinel",
    )
