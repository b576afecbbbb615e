"""What will not be equal to a run from the beginning where a phase goes on from other settings: a line each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from llmspec.compiler.budget import learning_rate
from llmspec.compiler.continued import Continued
from llmspec.compiler.keys import SHOWN_ONLY
from llmspec.compiler.plan import PhasePlan
from llmspec.compiler.plan_settings import by_path
from llmspec.parts.phases import TABLE, Phase
from llmspec.runs.trained_with import TrainedWith

if TYPE_CHECKING:
    from llmspec.data.stream import PhaseStream

APART = ("budget", "micro_batch_size", "gradient_accumulation_steps", "schedule", "keep", *SHOWN_ONLY)
"""Settings of a phase that have a line of their own, or shape no weight."""
NAMED = 6
"""Settings that are named, at most."""


def lines(
    planned: PhasePlan,
    earlier: TrainedWith,
    now: TrainedWith,
    went_on: Continued,
    cursor: Mapping[str, Any],
    stream: PhaseStream,
) -> Iterator[str]:
    """Everything that differs, with its numbers; `cursor` is that of the checkpoint."""
    yield from settings(earlier, now, went_on)
    yield from schedule(planned, earlier, went_on)
    yield from batches(planned, earlier, now, went_on)
    yield from text(earlier, now, went_on, cursor, stream)
    if not went_on.state:
        was = (earlier.phase.get("optimizer") or {}).get("kind")
        own = f"{was} kept others than {planned.phase.optimizer.kind}" if was != planned.phase.optimizer.kind else ""
        yield f"optimizer: its states start anew{f', since {own}' if own else ', since they are other ones now'}"
    if planned.phase.judged is not None:
        yield "validation: what was best before is not known to it; the best is chosen from here on"
    if planned.phase.on_spike is not None:
        yield f"on_spike: its mean is taken anew, over the next {planned.phase.on_spike.window} steps"


def settings(earlier: TrainedWith, now: TrainedWith, went_on: Continued) -> Iterator[str]:
    """Settings that the steps so far were taken with."""
    found = []
    for name, one, other in (("", earlier.phase, now.phase), ("model", earlier.model, now.model)):
        a, b = dict(by_path(one, name)), dict(by_path(other, name))
        changed = [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k) and not k.startswith(APART)]
        found += [f"{k} {shown(a.get(k))} (now {shown(b.get(k))})" for k in changed]
    if found:
        more = f", and {len(found) - NAMED} more" if len(found) > NAMED else ""
        yield f"settings: {went_on.step:,} steps were taken with {', '.join(found[:NAMED])}{more}"


def shown(value: Any) -> str:
    """A setting as YAML would have it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def schedule(planned: PhasePlan, earlier: TrainedWith, went_on: Continued) -> Iterator[str]:
    """Learning rates of the steps so far that a run from the beginning would not have."""
    before = phase_of(earlier)
    if before is None or not planned.steps:
        return
    first, total = went_on.first, planned.steps
    then = [learning_rate(before, s, earlier.steps) for s in range(1, went_on.step + 1)]
    own = [learning_rate(planned.phase, s, total) for s in range(1, first + 1)]
    if own == [then[-(-s * went_on.step // first) - 1] for s in range(1, first + 1)]:
        return
    at = f"after {went_on.step:,} of {earlier.steps:,} steps it was {then[-1]:.3g}"
    beginning = f"a run from the beginning has {own[-1]:.3g} there" if own else "a run from the beginning has none yet"
    following = learning_rate(planned.phase, first + 1, total)
    yield f"learning rate: {at}, {beginning}, and step {first + 1:,} of {total:,} has {following:.3g}"


def phase_of(earlier: TrainedWith) -> Phase | None:
    """The phase as it was; None where this version does not read it any more."""
    part = TABLE.get(str(earlier.phase.get("kind")))
    try:
        return part.model_validate_json(json.dumps(earlier.phase)) if part else None
    except ValidationError:
        return None


def batches(planned: PhasePlan, earlier: TrainedWith, now: TrainedWith, went_on: Continued) -> Iterator[str]:
    """Steps of another size."""
    if earlier.tokens == now.tokens:
        return
    rest = went_on.step * earlier.tokens - went_on.first * now.tokens
    left = f"; {rest:,} tokens more were read than those have" if rest else ""
    yield (
        f"batch: {went_on.step:,} steps of {earlier.tokens:,} tokens count as {went_on.first:,} of {planned.steps:,} "
        f"steps of {now.tokens:,} tokens{left}"
    )


def text(
    earlier: TrainedWith, now: TrainedWith, went_on: Continued, cursor: Mapping[str, Any], stream: PhaseStream
) -> Iterator[str]:
    """What was read, and what comes now."""
    task = cursor.get("task") or {}
    if (task.get("stream") or {}).get("stream") == stream.key:
        return  # the very same order
    counts = (task.get("ledger") or {}).get("counts") or {}
    read = {str(source): int(found.get("blocks") or 0) for source, found in counts.items()}
    rows = sum(read.values())
    if earlier.data != now.data:
        yield f"text: {rows:,} rows were read of other text than this phase has"
    elif went_on.step != earlier.steps:
        yield f"text: {rows:,} rows were read in another order; some of them come again, and others never"
    else:
        again, never = stream.again(went_on.first, read)
        if again or never:
            yield f"text: of {rows:,} rows that were read, {again:,} come again, and {never:,} others never"
