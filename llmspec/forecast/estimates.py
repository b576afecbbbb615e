"""How long a plan's phases take: a first estimate from measured speed, or what an earlier run of such steps took."""

from __future__ import annotations

import json
from math import ceil
from typing import Any, Literal, TypeVar

from llmspec.backends.workers import ToolchainError
from llmspec.compiler.inputs import NONE
from llmspec.compiler.lengths import stages
from llmspec.compiler.others import Others
from llmspec.compiler.plan import ModelPlan, PhasePlan, Plan
from llmspec.core.hashing import digest
from llmspec.core.units import count, duration
from llmspec.forecast.calibration import BACKWARD, Rates, measured_rates
from llmspec.forecast.machine import RATE
from llmspec.forecast.measurements import Kept, machine_key
from llmspec.forecast.passes import pieces_beside, step_pieces, trained_share
from llmspec.forecast.rollouts import UPDATE, lengths, rollout, update
from llmspec.parts.base import Frozen
from llmspec.parts.phases import Phase
from llmspec.parts.phases.rollouts import RolloutPhase

Origin = Literal["a first estimate from this machine's measured speed", "an earlier run of the same steps"]
GUESS: Origin = "a first estimate from this machine's measured speed"
EARLIER: Origin = "an earlier run of the same steps"
DECODED = 40
"""Products of one row read their weights and do little else: so many times slower than those of a pass. Measured."""
BESIDE_EACH_OTHER = 6
"""How many times faster a token is drawn where many texts are drawn side by side. Measured."""


class Measured(Frozen):
    """What a run took. Unit: seconds."""

    step: float
    """A step, the first one left out."""
    validation: float | None
    """A validation token."""
    sample: float | None
    """A drawn text."""
    parts: dict[str, float] = {}
    """A step by what its seconds went into, where steps have parts."""


class Forecast(Frozen):
    """What a phase is expected to take. Unit: seconds."""

    phase: str
    steps: float
    validation: float
    samples: float
    tokens_per_second: float
    """Read in steps."""
    origin: Origin
    reference: float = 0.0
    """What is computed before the first step, such as log-probabilities by a reference."""

    parts: dict[str, float] = {}
    """What the seconds of steps go into, where steps have parts, such as drawing answers."""

    @property
    def total(self) -> float:
        return self.steps + self.validation + self.samples + self.reference

    @property
    def shares(self) -> str:
        """What the seconds of steps go into, in words."""
        return ", ".join(f"{seconds / self.steps:.0%} {name}" for name, seconds in self.parts.items())

    @property
    def sentence(self) -> str:
        """All of it in words."""
        beside = [
            f"{duration(s)} {of}"
            for s, of in (
                (self.reference, "before the first step"),
                (self.validation, "of validation"),
                (self.samples, "of samples"),
            )
            if s >= 0.05
        ]
        return (
            f"{self.phase}: about {duration(self.total)}"
            + (f", {' and '.join(beside)} among them" if beside else "")
            + (f"; of the steps, {self.shares}" if self.parts else "")
            + f"; {count(self.tokens_per_second)} tokens/s ({self.origin})"
        )


def forecasts(
    plan: Plan, rates: Rates | None, earlier: dict[str, Measured], memory_rate: float | None = None
) -> dict[str, Forecast]:
    """By phase, as far as lengths and rates are known; `earlier` is what runs of such steps took, by `shape_key`, and
    `memory_rate` the bytes of weights a second that products with a few rows read."""
    found = {}
    for planned in plan.phases:
        known = earlier.get(shape_key(planned.model, planned.phase, planned.others))
        if planned.steps and planned.tokens and (known or rates):
            find = _of_rollouts if planned.phase.prompted else _forecast
            found[planned.name] = find(plan, planned, planned.steps, planned.tokens, rates, known, memory_rate)
    return found


def _forecast(
    plan: Plan,
    planned: PhasePlan,
    steps: int,
    tokens: int,
    rates: Rates | None,
    known: Measured | None,
    memory_rate: float | None,
) -> Forecast:
    phase = planned.phase
    mean = phase.batches.mean(steps)
    guess = mean_step(planned, steps, rates) if rates else 0.0
    taught = pieces_beside(planned, rates, mean) if rates else 0.0
    step = known.step if known else guess + taught
    # Validation reads rows of the whole context, and those of steps may be shorter.
    whole = step * step_pieces(planned.model, phase, rates, mean).total / guess if rates else step
    held_out = {s.name: s.validation_tokens or 0 for s in plan.sources}
    once, repeated = (
        sum(held_out.get(s.source, 0) for s in planned.shares),
        sum(s.tokens_repeated or 0 for s in planned.shares),
    )
    read = once * (1 + phase.asks_again) * _times(phase.evaluate_every.interval(steps), steps)
    drawn = planned.draws * phase.texts_drawn * _times(phase.sample_every.interval(steps), steps)
    passes = (BACKWARD * trained_share(planned.model, phase) + phase.asks_again) * mean
    tokens_of_pass = phase.micro_batch_size * plan.model.context
    beside = min(taught, step / 2) / mean / tokens_of_pass  # what was measured may have been faster than this guess
    of_pass = (whole - min(taught, step / 2)) / passes / tokens_of_pass
    measured = known.validation / (1 + phase.asks_again) if known and known.validation is not None else None
    each = measured if measured is not None else of_pass + beside
    answers = 0.0
    if planned.draws and not (known and known.validation is not None):  # what was measured has them in it
        answered = phase.answered * sum(held_out.get(s.source, 0) > 0 for s in planned.shares)
        token = DECODED * of_pass / BESIDE_EACH_OTHER
        answers = token * answered * plan.model.context * _times(phase.evaluate_every.interval(steps), steps)
    text = known.sample if known and known.sample is not None else DECODED * of_pass * plan.decoding.max_tokens
    return Forecast(
        phase=planned.name,
        steps=step * steps,
        validation=each * read + answers,
        reference=of_pass * phase.read_before(tokens, tokens - repeated, once),
        samples=text * drawn,
        tokens_per_second=tokens / steps / step,
        origin=EARLIER if known else GUESS,
    )


def _of_rollouts(
    plan: Plan,
    planned: PhasePlan,
    steps: int,
    tokens: int,
    rates: Rates | None,
    known: Measured | None,
    memory_rate: float | None,
) -> Forecast:
    """The same of a phase that draws answers for its steps to learn from."""
    phase, (prompt, answer) = planned.phase, lengths(planned)
    assert isinstance(phase, RolloutPhase), "it draws answers"
    texts = phase.answered * sum(bool(s.validation_tokens) for s in plan.sources if s.name in phase.mixture)
    validations = _times(phase.evaluate_every.interval(steps), steps) * texts
    samples = planned.draws * phase.texts_drawn * _times(phase.sample_every.interval(steps), steps)
    parts, each, alone = dict[str, float](), 0.0, 0.0
    if rates:
        made, rollouts = rollout(planned, rates, memory_rate), ceil(steps / phase.steps_per_rollout)
        parts = {name: seconds * rollouts for name, seconds in made.parts.items()}
        parts[UPDATE] = update(planned, rates) * steps
        each, alone = made.token + made.scoring / phase.answers / answer, made.alone
    if known:
        parts = {name: seconds * steps for name, seconds in known.parts.items()}
    token = known.validation if known and known.validation is not None else each
    sample = known.sample if known and known.sample is not None else alone * answer
    step = known.step if known else sum(parts.values()) / steps
    return Forecast(
        phase=planned.name,
        steps=step * steps,
        validation=token * answer * validations,
        samples=sample * samples,
        tokens_per_second=phase.learned / phase.mini_batches * (prompt + answer) / step,
        origin=EARLIER if known else GUESS,
        parts=parts,
    )


def mean_step(planned: PhasePlan, steps: int, rates: Rates) -> float:
    """Seconds of a step of a phase, on average over the lengths of its rows."""
    found = [
        (s.steps, step_pieces(s.model, s.phase, rates, s.passes).total)
        for s in stages(planned.model, planned.phase, steps)
    ]
    return found[0][1] if len(found) == 1 else sum(n * seconds for n, seconds in found) / steps


def _times(every: int, steps: int) -> int:
    """How often something happens that is due every so many steps (0: never), and at the end."""
    return steps // every + (steps % every > 0) if every else 1


def shape_key(model: ModelPlan, phase: Phase, others: Others = NONE) -> str:
    """A name for all that shapes a step: phases of equal keys take equally long a step."""
    lengths = phase.row_lengths(model.context)
    return digest(
        [
            model.model_dump(mode="json"),
            phase.micro_batch_size,
            phase.gradient_accumulation_steps,
            *(["activation checkpointing"] if phase.activation_checkpointing else []),
            *(["an update apart"] if phase.on_spike is not None else []),
            *([phase.batch_size_warmup.percent] if phase.batch_size_warmup.percent else []),
            *([lengths.lengths, lengths.growing] if lengths.growing else []),
            phase.document_mask,
            *(drawn_as(phase) if isinstance(phase, RolloutPhase) else []),
            phase.max_grad_norm is not None,
            phase.optimizer.model_dump(mode="json"),
            phase.objective.model_dump(mode="json"),
            *([o.model.model_dump(mode="json") for o in others.values()]),
        ]
    )


def drawn_as(phase: RolloutPhase) -> list[Any]:
    """All that shapes what a rollout of a phase takes, beside its model."""
    how = (phase.prompts_per_rollout, phase.answers_per_prompt, phase.max_tokens, phase.epochs_per_rollout)
    return [*how, phase.mini_batches, phase.bare_reference, phase.judge.model_dump(mode="json")]


# -- what is kept ----------------------------------------------------------------------------------------------------
RATES, STEPS = Kept("rates.json"), Kept("steps.json")


def calibrate(device: str) -> Rates:
    """Measures the machine's rates for some seconds, and keeps them. Raises ToolchainError without a compiler."""
    rates = measured_rates(device)
    RATES.keep(machine_key(device), rates.model_dump(mode="json"))
    return rates


def known_rates(device: str) -> Rates | None:
    """This machine's rates, where they were measured before."""
    try:
        return _read(Rates, RATES.read().get(machine_key(device))) if RATES.there() else None
    except ToolchainError:
        return None


def expected(plan: Plan) -> dict[str, Forecast]:
    """Forecasts by phase from what is kept of this machine: nothing is measured, and nothing known gives none."""
    if not (RATES.there() or STEPS.there()):
        return {}
    try:
        machine = machine_key(plan.device)
    except ToolchainError:  # a plan for a CPU can be explained where none can be trained
        return {}
    rates, prefix = _read(Rates, RATES.read().get(machine)), f"{machine}/"
    memory_rate = RATE.number(machine)
    earlier = {
        key.removeprefix(prefix): found
        for key, value in STEPS.read().items()
        if key.startswith(prefix) and (found := _read(Measured, value))
    }
    return forecasts(plan, rates, earlier, memory_rate)


def remember(plan: Plan, planned: PhasePlan, found: Measured) -> None:
    """Keeps what a run took, for the estimates of later runs."""
    STEPS.keep(
        f"{machine_key(plan.device)}/{shape_key(planned.model, planned.phase, planned.others)}",
        found.model_dump(mode="json"),
    )


Entry = TypeVar("Entry", bound=Frozen)


def _read(sort: type[Entry], value: Any) -> Entry | None:
    """An entry; None where there is none, or one that another version wrote."""
    try:
        return sort.model_validate_json(json.dumps(value)) if value is not None else None
    except ValueError:
        return None
