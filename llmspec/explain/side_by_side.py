"""The same prompts after every phase: what each of its models said to them at its end."""

from __future__ import annotations

from dataclasses import dataclass

from llmspec.compiler.plan import Plan
from llmspec.runs.run import RunFolder


@dataclass(frozen=True)
class PhaseAnswer:
    """What the model of one phase said to a prompt."""

    phase: str
    """Its name; of a model that no phase has made, where it lies."""
    text: str
    finish_reason: str
    chat: bool
    """Whether it answered a user's turn, rather than continued a text."""


@dataclass(frozen=True)
class SideBySide:
    """A prompt of the run, with the answers of the phases that have ended, in their order."""

    prompt: str
    answers: tuple[PhaseAnswer, ...]


def side_by_side(plan: Plan, folder: RunFolder) -> tuple[SideBySide, ...]:
    """Every prompt of the run that some phase has answered; answers of phases of other settings are left out. Raises
    RunError where a file of answers is damaged."""
    found: dict[str, list[PhaseAnswer]] = {prompt: [] for prompt in plan.prompts}
    for planned in plan.phases:
        place = folder.phase(planned.name)
        if not plan.prompts or not place.done(planned):
            continue
        kept = place.answers
        start = kept.get("start") or {"name": "", "answers": ()}
        for name, answers in ((start["name"], start["answers"]), (planned.name, kept.get("answers", ()))):
            for one in answers:
                said = PhaseAnswer(name, one["text"], one["finish_reason"], kept["chat"])
                if one["prompt"] in found and all(before.phase != name for before in found[one["prompt"]]):
                    found[one["prompt"]].append(said)
    return tuple(SideBySide(prompt, tuple(answers)) for prompt, answers in found.items() if answers)
