"""Span corruption, the pretraining of T5 (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4)."""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from llmspec.parts.phases.base import Phase


class Spans(NamedTuple):
    """How many tokens of a stretch of text are left out, and in how many spans."""

    noise: int
    """Tokens that are left out."""
    number: int
    """Spans of them."""


class SpanCorruption(Phase):
    """Predicts spans of plain text that were left out, each behind the sentinel token that stands for it: of
    encoder–decoders, whose encoder reads the rest, or decoders with `mask: {kind: prefix}`. Spans are drawn anew each
    time that a text is read; those of validation are always the same."""

    kind: Literal["span_corruption"] = "span_corruption"
    in_float64: ClassVar[tuple[str, ...]] = (*Phase.in_float64, "noise_density", "mean_noise_span_length")
    cuts: ClassVar[str] = "spans"
    noise_density: float = Field(0.15, gt=0, lt=1)
    """Share of a stretch's tokens that are left out, rounded, at least one."""
    mean_noise_span_length: float = Field(3.0, ge=1, le=1 << 24)
    """Tokens of a span on average, which says how many spans there are."""
    prompts: tuple[str, ...] = ()
    """Texts with `<extra_id_0>`, `<extra_id_1>` … where something is to be filled in, shown at each sample; if omitted,
    text with spans left out that was held out, or the first of the training text."""

    def spans(self, length: int) -> Spans:
        """Of a stretch of `length` ≥ 2 tokens (google-research/text-to-text-transfer-transformer, preprocessors,
        random_spans_noise_mask): numpy's rounding, halves to the even number."""
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        return Spans(noise, max(1, round(min(noise, length - noise) / self.mean_noise_span_length)))

    def lengths(self, length: int) -> tuple[int, int]:
        """(tokens of the text with its sentinels, tokens of the spans behind theirs), without special tokens around."""
        noise, count = self.spans(length)
        return length - noise + count, noise + count

    def stretch(self, context: int, encoder_context: int, around: int | None = None) -> int:
        """The longest stretch of text whose two sides fit a row; below 2 where none does. An encoder reads the first
        with `around` special tokens, usually one; a decoder predicts the second and an end token. A decoder alone has
        both in one row, `around` the first usually two."""
        around = (1 if encoder_context else 2) if around is None else around

        def fits(length: int) -> bool:
            text, spans = self.lengths(length)
            if encoder_context:
                return text + around <= encoder_context and spans + 1 <= context
            return text + around + spans <= context

        low, high = 1, context + encoder_context
        while low < high:  # sides only grow with the stretch
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low

    def row_tokens(self, context: int, encoder_context: int) -> int:
        text, spans = self.lengths(max(2, self.stretch(context, encoder_context)))
        return text + spans + 2
