"""What hinders a phase of pairs before any text is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem
from llmspec.parts.phases import Phase
from llmspec.parts.sources import Source

FEWEST = 2
"""Pairs of a pass with which there is anything to compare."""


def pair_problems(phase: Phase, model: ModelPlan, sources: Mapping[str, Source]) -> Iterator[Problem]:
    """Sources that are read as plain text alone, and sides that are cut where one row holds both."""
    if not (phase.pairs or phase.apart):
        return
    for name in phase.mixture:
        source = sources.get(name)
        if source is not None and source.shaped and not source.has_dialogues:
            yield Problem(
                f"{name} has a template for plain text alone, and a phase of kind {phase.kind} reads pairs",
                ("mixture", name),
                f"write `source:` and `target:` at data.sources.{name}, such as `source: {source.text!r}`",
                "it would be unclear what is asked and what is to be said",
            )
    if phase.apart and phase.micro_batch_size * (phase.objective.places(model.context) or 0) < 2 * FEWEST:
        yield Problem(
            f"a pass of {phase.micro_batch_size} sequence of {model.context} tokens holds one pair, and a pair is "
            "compared with the others of its pass alone",
            ("micro_batch_size",),
            "a larger micro_batch_size, or a longer model.context; gradient_accumulation_steps give no negatives",
            "there would be nothing to tell a text's counterpart from, and the loss would be 0",
        )
    if phase.pairs and getattr(phase, "truncation", "none") != "none" and model.encoder is None:
        yield Problem(
            "a decoder alone reads source and target in one row, so that neither has a length of its own to be cut to",
            ("truncation",),
            "leave it out, and give model.context room for both; or write model.encoder",
            "a pair that is longer than the context is left out whole",
        )
