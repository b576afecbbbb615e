"""What updates of a phase did to one token that it had drawn: advantage, ratio, clip, in the run's own numbers.

A phase that learns from answers of its own keeps one token of a rollout in the middle of its steps. Where it has not
got there, its checkpoint holds the last rollout with the log-probabilities as they were drawn, and its weights are
those after the updates: so both sides of the ratio are known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmspec.compiler.plan import PhasePlan
    from llmspec.parts.tokenizers import Codec
    from llmspec.runs.run import RunFolder

READ_ANEW = 50_000_000
"""Characters of a source that are tokenised, at most, where nobody has before."""
Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Lesson:
    """One token of a rollout of a phase. Log-probabilities in nats, at the phase's temperature."""

    step: int
    """Steps that the phase had taken, the updates included."""
    updates: int
    """How many of them learned from this rollout."""
    prompt: str
    before: str
    """What of the answer stands before the token."""
    token: str
    """Its characters, made visible."""
    after: str
    """What follows it."""
    ended: bool
    """Whether the model ended the answer by itself."""
    rewards: dict[str, float]
    """What the answer was worth, by what gave it."""
    score: float
    """The same as it counts: scaled, bounded, and less what an answer loses that was cut."""
    group: tuple[float, ...]
    """The scores of all answers to the prompt."""
    value: float | None
    """What was expected of the answer before the token; None without a value function."""
    returns: float | None
    """What the value function is taught to expect there."""
    advantage: float
    """How much better the token was than what was expected, as it counts in the loss."""
    old_logp: float
    """As it was drawn."""
    new_logp: float
    """After the updates."""
    reference_logp: float | None
    """In the model that it is held near to."""
    ratio: float
    """π(token) / π_drawn(token); of the whole answer, where each answer has one ratio."""
    low: float
    """Bounds of the ratio."""
    high: float

    @property
    def bounded(self) -> float:
        """The ratio within its bounds."""
        return min(max(self.ratio, self.low), self.high)

    @property
    def gain(self) -> float:
        """min(r·A, clip(r)·A): what the update makes larger."""
        return min(self.ratio * self.advantage, self.bounded * self.advantage)

    @property
    def clipped(self) -> bool:
        """Whether the token has no gradient any more: its ratio is past the bound on the side of its advantage."""
        return (self.ratio > self.high and self.advantage > 0) or (self.ratio < self.low and self.advantage < 0)


def lesson_of(folder: RunFolder, name: str, progress: Progress) -> Lesson | str:
    """What the last updates of a phase did to one token; or in a sentence why that is not known. Raises LlmspecError
    where its files are damaged or its data are not here."""
    from llmspec.training.tasks import TASKS
    from llmspec.training.tasks.rollouts import Rollouts

    planned = folder.plan().phase(name)
    if not issubclass(TASKS[planned.phase.kind], Rollouts):
        return ""
    if not hasattr(planned.phase.objective, "ratio_bounds"):
        return f"{name} learns its best answers as they stand; what an update does to one token, ppo and grpo show"
    place = folder.phase(name)
    if place.about.get("key") != planned.key:
        return f"{name} has not begun: after it, this shows what an update did to one of its tokens"
    saved, _ = place.checkpoint(planned.key)
    if saved is None:
        return "no checkpoint holds the answers that it learned from"
    if kept := saved.cursor().get("task", {}).get("lesson"):
        return told(kept, folder, saved)
    if planned.phase.kept_best or planned.phase.ema is not None:
        return "the weights that the phase leaves are not those right after its last update"
    return found_in(folder, planned, saved, progress)


def told(kept: Any, folder: RunFolder, saved: Any) -> Lesson:
    """The lesson that a checkpoint keeps. Raises RunError where it is none."""
    from llmspec.core.problems import RunError

    codec = folder.tokenizer(folder.plan())
    try:
        return in_words(kept, codec)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
        raise RunError(f"{saved.folder}: what it keeps of an update is damaged") from None


def in_words(found: Mapping[str, Any], codec: Codec) -> Lesson:
    """A lesson from its numbers; the token's neighbours and itself are spelled out."""
    from llmspec.explain.decoding import token_text

    rest = {name: value for name, value in found.items() if name not in ("said", "place")}
    said, t = found["said"], found["place"]
    return Lesson(
        **{**rest, "group": tuple(found["group"])},
        before=codec.decode(said[:t]),
        token=token_text(codec, said[t]),
        after=codec.decode(said[t + 1 :]),
    )


def found_in(folder: RunFolder, planned: PhasePlan, saved: Any, progress: Progress) -> Lesson | str:
    """The lesson of a checkpoint that keeps none."""
    import numpy as np

    from llmspec.data.prepare import prepare
    from llmspec.decoding.language_model import open_model
    from llmspec.explain.token_ratios import log_probabilities
    from llmspec.training.callbacks import Callback
    from llmspec.training.context import RunContext
    from llmspec.training.lesson import numbers
    from llmspec.training.stop import Stop
    from llmspec.training.tasks import TASKS

    plan = folder.plan()
    prepared = prepare(plan, offline=True, progress=progress, most=READ_ANEW)
    model = open_model(folder.path, phase=planned.name)
    context = RunContext(plan, prepared, model._backend, Callback(), Stop())
    task: Any = TASKS[planned.phase.kind](context, planned)
    task.restore(saved.cursor().get("task", {}), saved.task(task.tensor_shapes()), saved.step)
    made = task.made
    if made is None:
        return "its checkpoint holds no answers yet"

    def after(one: int) -> Any:
        said = made.tokens[one, : int(made.lengths[one])].tolist()
        ids = [int(i) for i in made.prompt(one).ids]
        return log_probabilities(model, ids, said, task.phase.temperature)[np.arange(len(said)), said]

    return in_words(numbers(task, after, saved.step), model.codec)
