"""What hinders a phase that reads text between special tokens, before any text is read."""

from __future__ import annotations

from collections.abc import Iterator

from llmspec.compiler.plan import ModelPlan
from llmspec.compiler.special_tokens import missing
from llmspec.core.problems import Problem
from llmspec.parts.phases import Phase
from llmspec.parts.tokenizers import Tokenizer

KEY = "add_special_tokens"


def framing_problems(phase: Phase, model: ModelPlan, tokenizer: Tokenizer | None) -> Iterator[Problem]:
    """Tokens that are not there, rows that have no room between them, and rows that would be cut through them."""
    from llmspec.parts.phases.masked_lm import MaskedLM

    if not isinstance(phase, MaskedLM) or tokenizer is None:
        return
    found = tokenizer.meanings()
    if phase.add_special_tokens:
        yield from missing(found, ("cls", "sep"), f"`{KEY}: true`", (KEY,))
    if (around := phase.around(found)) is None:
        return
    framing = sum(map(len, around))
    if model.context <= framing:
        yield Problem(
            f"rows of {model.context} tokens have no room for text between {framing} special tokens",
            (KEY,),
            f"raise model.context above {framing}, or {KEY}: false",
            "there would be nothing to read",
        )
    if phase.sequence_length is not None:
        yield Problem(
            "rows that grow are cut anywhere, and these hold text between special tokens",
            ("sequence_length",),
            f"leave it out, or {KEY}: false",
            "most of the shorter rows would lack a special token at one of their ends",
        )
