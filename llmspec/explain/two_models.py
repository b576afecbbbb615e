"""Two models of one run that read the same tokens: that of a later phase, and that of the one it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import LlmspecError, one_of
from llmspec.parts.others import StartModel
from llmspec.runs.run import RunFolder

Open = Callable[[Any, str | None], Any]
"""f(path, phase) -> a LanguageModel."""


class Pair(NamedTuple):
    """Two models, opened."""

    model: Any
    other: Any
    against: str
    """What the other one is called."""


@dataclass(frozen=True)
class Asked:
    """A prompt that both models answer."""

    text: str
    """The question, or the last turn before the answer."""
    tokens: tuple[int, ...]
    turns: tuple[tuple[str, str], ...] = ()
    """(role, text) of the dialogue before the answer."""


def open_pair(folder: RunFolder, phase: str | None, against: str | None, open_: Open) -> Pair:
    """The model of a phase, by default the last that draws text and is trained; and that of `against`, another phase of
    the run, by default what the first one started from.

    Raises LlmspecError where a name is no phase's that draws text, and RunError where there are no weights.
    """
    plan = folder.plan()
    drawing = {p.name: p for p in plan.phases if p.draws}
    for option, name in (("--phase", phase), ("--against", against)):
        if name is not None and name not in drawing:
            none = name in {p.name for p in plan.phases}
            raise LlmspecError(
                f"{option}: {name} draws no text" if none else f"{option}: the run has no phase {name}",
                one_of(name, drawing) if drawing else "`llmspec explain` shows the run",
            )
    if phase is None:
        done = [name for name, p in drawing.items() if folder.phase(name).done(p)]
        if not (done or drawing):
            raise LlmspecError("no phase of this run draws text", "`llmspec explain` shows the run")
        phase = (done or list(drawing))[-1]
    first = plan.phase(phase).phase.from_
    if against is None and first is None:
        raise LlmspecError(
            f"{phase} starts from no other phase, so there is nothing to compare it with",
            "--against PHASE names another one, --phase a later one",
        )
    if against == phase:
        raise LlmspecError(f"--against: {phase} would be compared with itself", "name another phase")
    if against is None and isinstance(first, StartModel):
        from llmspec.formats.bases import folder_of, model_in

        begun = folder_of(plan, first)
        return Pair(open_(folder.path, phase), open_(begun.path, model_in(begun, begun.plan())[0]), first.said)
    other = against or str(first)
    return Pair(open_(folder.path, phase), open_(folder.path, other), other)


def prompts_of(plan: Plan, planned: PhasePlan) -> tuple[str, ...]:
    """The prompts that a run's models are asked where none is given: the run's own, else those of the phase's samples.
    Raises LlmspecError where there are none."""
    if found := plan.prompts or planned.phase.prompts:
        return found
    raise LlmspecError(
        "the run has no prompts of its own",
        "--prompt 'What is a comet?' asks one; `prompts:` at the top of the spec are answered after every phase",
    )


def answers_to(model: Any, asked: Sequence[Asked], like: Any, settings: Any, seed: int) -> list[Any]:
    """The answer of a model to each prompt, side by side. Both models of a pair read the same tokens: a chat where the
    first, `like`, is one for chats."""
    from llmspec.decoding.generate import generate

    prompts = [list(one.tokens) for one in asked]
    return generate(model.drawing, model.codec, prompts, settings, seed=seed, chat=like.chat)
