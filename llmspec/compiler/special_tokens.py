"""Whether the tokenizer has the special tokens that objectives and the chat template need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llmspec.compiler.draft import Draft
from llmspec.core.problems import Path, Problem
from llmspec.parts.tokenizers.special_tokens import SpecialTokens


def check_special_tokens(draft: Draft) -> Draft:
    """Every special token that a phase needs, and the tokenizer has not, is a problem."""
    tokenizer, template = draft.sections.tokenizer, draft.sections.chat_template
    assert tokenizer is not None
    found, phases = tokenizer.meanings(), draft.sections.phases
    # Documents of which something is asked stand between special tokens of their own, and rows are filled with padding.
    whole = [phase.objective.reads_whole or phase.around(found) is not None for phase in phases.values()]
    apart = bool(phases) and found.pad is not None and all(whole)
    problems = list(missing(found, () if apart else ("eos",), "a border between documents", ("tokenizer",)))
    for name, phase in phases.items():
        objective = phase.objective
        problems += missing(found, objective.special_tokens, objective.kind, ("phases", name, "objective"))
    model = draft.sections.model
    if model is not None and model.encoder is not None:
        wanted = (model.encoder.decoder_start,)
        problems += missing(found, wanted, "the decoder's text", ("model", "encoder", "decoder_start"))
    if template is not None and any(phase.templated for phase in phases.values()):
        problems += missing(found, template.needs, f"the chat template {template.kind}", ("chat_template",))
        problems += [problem.at("chat_template") for problem in template.check(found)]
    return draft.with_problems(problems)


def missing(found: SpecialTokens, wanted: Iterable[str], who: str, path: Path) -> Iterator[Problem]:
    """A problem for each of the wanted meanings that no token has."""
    for meaning in wanted:
        if found.find(meaning) is None:
            yield Problem(
                f"{who} needs a special token for `{meaning}`, and the tokenizer has none",
                path,
                found.advice(meaning),
                "its sequences could not be built",
            )
