"""How long a plan's phases take: a first estimate from measured speed, or what an earlier run of such steps took."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple, TypeVar

from llmspec.backends.workers import ToolchainError
from llmspec.compiler import walk
from llmspec.compiler.cost import apart, share_read
from llmspec.compiler.dropped import dropped
from llmspec.compiler.inputs import NONE
from llmspec.compiler.lengths import stages
from llmspec.compiler.others import Others
from llmspec.compiler.plan import ModelPlan, PhasePlan, Plan
from llmspec.core.hashing import digest
from llmspec.core.units import count, duration
from llmspec.forecast.calibration import BACKWARD, Rates, measured_rates
from llmspec.forecast.measurements import Kept, machine_key
from llmspec.parts.base import Frozen
from llmspec.parts.phases import Phase

Origin = Literal["a first estimate from this machine's measured speed", "an earlier run of the same steps"]
GUESS: Origin = "a first estimate from this machine's measured speed"
EARLIER: Origin = "an earlier run of the same steps"
BESIDE_STEP = 1.5e-3
"""Seconds of a step that the host takes for its batch, its rows and its call. Measured."""
DECODED = 40
"""Products of one row read their weights and do little else: so many times slower than those of a pass. Measured."""
BESIDE_EACH_OTHER = 6
"""How many times faster a token is drawn where many texts are drawn side by side. Measured."""


class Pieces(NamedTuple):
    """Seconds of one optimizer step by what takes them, forward and backward."""

    products: float
    """Of the layers' weights."""
    attention: float
    head: float
    """Head and loss."""
    other: float
    """Norms, activations, residuals and dropout."""
    update: float
    """Clipping and optimizer."""
    beside: float
    """The host's own work."""

    @property
    def total(self) -> float:
        return sum(self)


class Measured(Frozen):
    """What a run took. Unit: seconds."""

    step: float
    """A step, the first one left out."""
    validation: float | None
    """A validation token."""
    sample: float | None
    """A drawn text."""


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

    @property
    def total(self) -> float:
        return self.steps + self.validation + self.samples + self.reference

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
            + f"; {count(self.tokens_per_second)} tokens/s ({self.origin})"
        )


def forecasts(plan: Plan, rates: Rates | None, earlier: dict[str, Measured]) -> dict[str, Forecast]:
    """By phase, as far as lengths and rates are known; `earlier` is what runs of such steps took, by `shape_key`."""
    found = {}
    for planned in plan.phases:
        known = earlier.get(shape_key(planned.model, planned.phase, planned.others))
        if planned.steps and planned.tokens and (known or rates):
            found[planned.name] = _forecast(plan, planned, planned.steps, planned.tokens, rates, known)
    return found


def _forecast(
    plan: Plan, planned: PhasePlan, steps: int, tokens: int, rates: Rates | None, known: Measured | None
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


def step_pieces(model: ModelPlan, phase: Phase, rates: Rates, passes: float | None = None) -> Pieces:
    """What the pieces of a step take, each by its own rate; of so many passes, all of a whole batch if left out."""
    passes = phase.gradient_accumulation_steps if passes is None else passes
    tokens, width = phase.micro_batch_size * model.context * passes, model.d_model
    matrices, pieces = [t for t in model.tensors if t.role == "matrix"], list(walk.walk(model))
    passed = (BACKWARD * trained_share(model, phase) + phase.activation_checkpointing + phase.asks_again) * 2 * tokens
    attentions = [(p.uses * p.rate, p.dims) for p in pieces if p.kind in ("attention", "cross_attention")]
    norms = sum(p.uses * p.rate for p in pieces if p.kind == "norm")
    hidden = sum(
        p.uses * p.rate * (p.part.saved_for_backward(p.dims) - (getattr(p.part, "d_ff", 0) or 0))
        for p in pieces
        if p.kind == "mlp"
    )
    turned = sum(uses * (dims.heads + 2 * dims.kv_heads) * dims.head_dim for uses, dims in attentions)
    scored = sum(uses * dims.seen * dims.heads * dims.head_dim for uses, dims in attentions)
    outputs = model.heads[phase.objective.head].outputs(model.dims)
    read = walk.rates(model)
    drops = dropped(model) * rates.drop
    update = 0.0
    for t in model.trained:
        update += rates.update * t.count
        if work := phase.optimizer.products(t.role, t.shape):
            update += work / rates.product(min(t.shape[-2:]))
    return Pieces(
        products=sum(passed * read.get(t.name, 1.0) * t.count / rates.product(min(t.shape[-2:])) for t in matrices),
        attention=passed * 2 * scored / rates.attention,
        head=passed * share_read(model, phase) * outputs * width / (rates.loss * rates.product(width)),
        # The sum of the embedding counts as one norm more.
        other=tokens * (rates.norm * (norms + 1) * width + drops + rates.gate * hidden + rates.norm * turned),
        update=update + (2 * rates.update * model.trained_parameters / 7 * passes if phase.updates_apart else 0.0),
        beside=BESIDE_STEP * passes + rates.call,
    )


def pieces_beside(planned: PhasePlan, rates: Rates, passes: float) -> float:
    """Seconds of the passes forward of the models that stand beside the trained one in a step, such as a teacher's."""
    total, phase = 0.0, planned.phase
    for other in (o for o in planned.others.values() if not o.once):
        asked = phase.objective.model_copy(update={"head": other.model.generating_head})
        as_if = phase.model_copy(update={"objective": asked, "activation_checkpointing": False})
        found = step_pieces(other.model, as_if, rates, passes)
        multiplied = found.products + found.attention + found.head
        total += multiplied / (BACKWARD * trained_share(other.model, as_if)) + found.other / BACKWARD
    return total


def trained_share(model: ModelPlan, phase: Phase) -> float:
    """Products of a pass forward and backward, as a share of those where everything is trained."""
    heads, read = phase.objective.heads, share_read(model, phase)
    forward = walk.forward_flops(model, heads, read)
    return (forward + walk.backward_flops(model, heads, read, apart(phase))) / (BACKWARD * forward)


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
            phase.max_grad_norm is not None,
            phase.optimizer.model_dump(mode="json"),
            phase.objective.model_dump(mode="json"),
            *([o.model.model_dump(mode="json") for o in others.values()]),
        ]
    )


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
    earlier = {
        key.removeprefix(prefix): found
        for key, value in STEPS.read().items()
        if key.startswith(prefix) and (found := _read(Measured, value))
    }
    return forecasts(plan, rates, earlier)


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
