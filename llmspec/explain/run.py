"""What a run has done, from its directory alone; also of one that has only begun, or was cut short."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from llmspec.compiler.checks import Check
from llmspec.compiler.plan import PhasePlan, Plan, SharePlan
from llmspec.core.visible import quoted
from llmspec.explain.beside import others_said, replayed
from llmspec.explain.curves import (
    Curve,
    NamedCurve,
    TimePart,
    ValidationCurve,
    curve,
    named_curves,
    parts_of,
    validations,
)
from llmspec.explain.labels import LabelTable, label_tables
from llmspec.explain.ledger import COUNTED, LedgerRow
from llmspec.explain.plan_vs_actual import Fact, facts_of, remarks_on
from llmspec.explain.remarks import remarks_of
from llmspec.explain.report import Report
from llmspec.explain.side_by_side import SideBySide, side_by_side
from llmspec.forecast.decoding import DecodingSpeed, speed
from llmspec.parts.phases.rollouts import RolloutPhase
from llmspec.runs.certificate import Certificate
from llmspec.runs.files import read_table
from llmspec.runs.run import PhaseFolder, RunFolder

State = Literal["done", "begun", "waiting", "of another plan"]


@dataclass(frozen=True)
class Sample:
    """Text that the model wrote during training."""

    step: int
    prompt: str
    text: str
    finish_reason: str
    origin: str = ""
    """Where its prompt was taken from, where the spec has none."""
    error: str = ""
    """Why it could not be drawn."""
    target: str = ""
    """What was to be said, where that is known."""
    attention: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()
    """Each word of the text, with the words of the prompt that it looked at most and their shares."""


@dataclass(frozen=True)
class PhaseRun:
    """What happened in one phase."""

    name: str
    kind: str
    state: State
    step: int
    """Steps that are recorded."""
    steps: int | None
    """Steps that were planned."""
    metrics: tuple[NamedCurve, ...]
    """Numbers of each step by name and unit; what is minimised, mostly the loss, first."""
    validation: tuple[ValidationCurve, ...]
    learning_rate: Curve
    gradient_norm: Curve
    """Before clipping."""
    max_grad_norm: float | None
    clipped: float | None
    """Share of the steps whose gradient was clipped."""
    seconds: float
    """Wall time of the steps; validation, samples and checkpoints excluded."""
    slowest_step: float | None
    """Seconds; mostly the first, which compiles."""
    tokens_per_second: float | None
    """Tokens read per second of a median step."""
    speed: Curve
    """Tokens read per second of each step."""
    flops_per_second: float | None
    facts: tuple[Fact, ...]
    """What was promised of it, and what came."""
    ledger: tuple[LedgerRow, ...]
    samples: tuple[Sample, ...]
    remarks: tuple[str, ...]
    labels: tuple[LabelTable, ...] = ()
    """Of each source, how well each label was told in the last validation."""
    continued: tuple[str, ...] = ()
    """What it goes on from, and what is therefore not equal to a run from the beginning; nothing where it began."""
    beside: tuple[str, ...] = ()
    """The models that stand beside its own, and what it reads again of the phases before it, in sentences."""
    copied: str = ""
    """The run that has trained it, from which it was copied; '' where this one has."""
    ended: str = ""
    """Why it ended before its budget; '' where it did not."""
    skipped: tuple[int, ...] = ()
    """Steps whose update was not applied, since their loss was a spike."""
    best: str = ""
    """Which checkpoint it leaves where it keeps the best; '' where that is the last one."""
    start: str = ""
    """The phase or the model that it starts from; '' where it starts anew."""
    parts: tuple[TimePart, ...] = ()
    """What the time of its steps went into, where its steps have parts."""

    @property
    def loss(self) -> Curve:
        """What is minimised."""
        return self.metrics[0].curve


@dataclass(frozen=True)
class SourceCredit:
    """Whom to name for a source."""

    source: str
    license: str
    attribution: str


@dataclass(frozen=True)
class RunReport(Report):
    """Everything a run has done."""

    about: ClassVar[str] = "run"
    name: str
    path: str
    state: str
    device: str
    machine: str
    packages: dict[str, str]
    seed: int
    parameters: int
    seconds: float
    """Wall time of all recorded steps."""
    peak_flops: float | None
    """FLOPs a second of the machine's fastest product; None before the run's end."""
    decoding: DecodingSpeed | None
    """What drawing a token reads, and how fast that was on this machine; None where the model draws no text."""
    phases: tuple[PhaseRun, ...]
    checks: tuple[Check, ...]
    """What was checked before step 0."""
    sources: tuple[SourceCredit, ...]
    remarks: tuple[str, ...]
    certificate: Certificate | None = None
    """What `run --certify` found."""
    stale: tuple[str, ...] = ()
    """Phases whose settings were others then."""
    answers: tuple[SideBySide, ...] = ()
    """The prompts of the run, with what each phase's model said to them at its end."""
    further: tuple[str, ...] = ()
    """Commands that say more of it."""


def explain_run(folder: RunFolder) -> RunReport:
    """The report of a run directory. Raises RunError where its plan cannot be read."""
    plan = folder.plan()
    lock = _lock(folder)
    peak = folder.facts.get("peak_flops")
    phases = tuple(_phase(plan, p, folder.phase(p.name), peak) for p in plan.phases)
    certificate = Certificate.read(folder.path)
    keys = {p.name: p.key for p in plan.phases}
    machine = " ".join(str(lock[k]) for k in ("system", "machine") if lock.get(k))
    return RunReport(
        name=plan.name,
        path=str(folder.path),
        state=_state(phases),
        device=plan.device,
        machine=machine + (f", Python {lock['python']}" if lock.get("python") else ""),
        packages=dict(lock.get("packages") or {}),
        seed=plan.seed,
        parameters=plan.model.parameters,
        seconds=sum(p.seconds for p in phases),
        peak_flops=peak,
        decoding=speed(plan.model, plan.device),
        phases=phases,
        checks=folder.checks(),
        sources=credits(plan),
        remarks=tuple(f"{p.name}: {r}" for p in phases for r in p.remarks),
        certificate=certificate,
        stale=tuple(p.name for p in certificate.phases if keys.get(p.name) != p.key) if certificate else (),
        answers=side_by_side(plan, folder),
        further=_further(plan, folder.path, phases),
    )


def _further(plan: Plan, path: Path, phases: Sequence[PhaseRun]) -> tuple[str, ...]:
    """What of an alignment is not in this report: of the last phase that has made another model of one that answers."""
    named = quoted(str(path))
    done = [p for p, run in zip(plan.phases, phases, strict=True) if run.state == "done" and p.draws]
    compared = [p for p in done if p.phase.from_ in {other.name for other in done if other.phase.templated}]
    if not compared:
        return ()
    last, begun = compared[-1].name, compared[-1].phase.from_
    said = [
        f"llmspec explain {named} --phase {last} --against {begun} --tokens    # which tokens {last} prefers",
        f"llmspec explain {named} --phase {last} --against {begun} --by REWARD    # how often {last} answers better",
    ]
    lessons = [p.name for p in done if hasattr(p.phase.objective, "ratio_bounds")]
    said += [f"llmspec explain {named} --part phases.{name}    # what an update does to one token" for name in lessons]
    return tuple(said)


def credits(plan: Plan) -> tuple[SourceCredit, ...]:
    """Licence and attribution of every source that a phase reads."""
    read = {s.source for p in plan.phases for s in p.shares if s.share > 0}
    return tuple(SourceCredit(s.name, s.source.license, s.source.attribution) for s in plan.sources if s.name in read)


def _lock(folder: RunFolder) -> Mapping[str, Any]:
    """What the lock says, as far as it is of the right types: an older version's rest is worth showing."""
    found = read_table(folder.path / "lock.json")
    packages = found.get("packages")
    return {
        **{k: v for k, v in found.items() if isinstance(v, str)},
        "packages": {k: str(v) for k, v in packages.items()} if isinstance(packages, dict) else {},
    }


def _state(phases: Sequence[PhaseRun]) -> str:
    if all(p.state == "done" for p in phases):
        return "done"
    now = next(p for p in phases if p.state != "done")
    if now.state == "begun":
        return f"in {now.name}, after step {now.step:,} of {now.steps:,}" if now.steps else f"in {now.name}"
    done = [p.name for p in phases if p.state == "done"]
    return f"{now.name} has not begun" + (f"; {', '.join(done)} done" if done else "")


def _phase(plan: Plan, planned: PhasePlan, folder: PhaseFolder, peak_flops: float | None) -> PhaseRun:
    about, rows, phase = folder.about, folder.metrics.read(), planned.phase
    metrics, norm = named_curves(rows, about.get("units") or {}), curve(rows, "norm")
    timing = folder.timing.read()
    seconds, held_out = curve(timing, "seconds"), validations(rows)
    per_step, each = _pace(planned, rows, seconds)
    clipped = None
    if phase.max_grad_norm is not None and norm.values:
        clipped = sum(v > phase.max_grad_norm for v in norm.values) / len(norm.values)
    tokens_per_second = per_step / each if per_step and each else None
    flops = planned.flops / planned.steps / each if planned.flops and planned.steps and each else None
    left_out = tuple(int(row["step"]) for row in rows if row.get("skipped") is True)
    taken = [*norm.steps[-1:], *left_out[-1:]]  # a skipped step may have no norm
    step, state = max(taken, default=0), _phase_state(about, planned)
    counts = [c.get("tokens_read", 0) for c in counts_of(about.get("ledger")).values()]
    first = planned.continued.first if planned.continued else 0
    promised = (
        facts_of(
            own_part(planned), about, step - first, sum(seconds.values), sum(counts) if counts else None, peak_flops
        )
        if step and state != "of another plan"
        else ()
    )
    read = {source: c.get("tokens_read") for source, c in counts_of(about.get("ledger")).items()}
    beside = (*others_said(plan, planned), *replayed(plan, planned, read or None))
    ended = (about.get("ended") or {}).get("why", "")
    ledger = _ledger(planned.shares, about.get("ledger"), whole=not (ended or planned.continued))
    return PhaseRun(
        name=planned.name,
        kind=phase.kind,
        state=state,
        step=step,
        steps=planned.steps,
        metrics=metrics,
        validation=held_out,
        learning_rate=curve(rows, "lr"),
        gradient_norm=norm,
        max_grad_norm=phase.max_grad_norm,
        clipped=clipped,
        seconds=sum(seconds.values),
        slowest_step=max(seconds.values, default=None),
        tokens_per_second=tokens_per_second,
        speed=_speed(seconds, per_step),
        flops_per_second=flops,
        facts=promised,
        ledger=ledger,
        samples=_samples(folder),
        remarks=(*remarks_of(metrics, held_out, clipped, ledger, planned), *remarks_on(promised)),
        start=started_from(planned),
        parts=parts_of(timing, (about.get("promise") or {}).get("parts") or {}),
        continued=lineage(planned),
        beside=beside,
        copied=str(about.get("copied") or ""),
        ended=ended,
        best=str(about.get("best") or ""),
        skipped=left_out,
        labels=label_tables(rows),
    )


def lineage(planned: PhasePlan) -> tuple[str, ...]:
    """What a phase goes on from, in words; nothing where it is trained from its beginning."""
    went_on = planned.continued
    if went_on is None:
        return ()
    begins = f"goes on from step {went_on.step:,} of other settings ({went_on.key[:8]}), as step {went_on.first:,}"
    return (begins, *went_on.said)


def started_from(planned: PhasePlan) -> str:
    """What a phase starts from, in a word; '' where it starts anew."""
    first = planned.phase.from_
    return "" if first is None else first if isinstance(first, str) else first.said


def own_part(planned: PhasePlan) -> PhasePlan:
    """The part of a phase that it takes itself, where it goes on from something."""
    if planned.continued is None or not planned.steps:
        return planned
    left = planned.steps - planned.continued.first
    flops = planned.flops * left / planned.steps if planned.flops else None
    return planned.model_copy(update={"steps": left, "tokens": None, "flops": flops})


def _phase_state(about: Mapping[str, Any], planned: PhasePlan) -> State:
    if not about:
        return "waiting"
    if about.get("key") != planned.key:
        return "of another plan"
    return "done" if about.get("done") else "begun"


def _pace(planned: PhasePlan, rows: Sequence[dict[str, Any]], seconds: Curve) -> tuple[float | None, float | None]:
    """(tokens of a step, its seconds). Those of a phase that draws answers are drawn tokens, which no plan knows, and
    the mean, since most steps of a rollout draw nothing."""
    tokens = planned.tokens / planned.steps if planned.tokens and planned.steps else None
    if not seconds.values:
        return tokens, None
    if not isinstance(planned.phase, RolloutPhase):
        return tokens, statistics.median(seconds.values)
    drawn = curve(rows, "tokens").values
    return statistics.fmean(drawn) if drawn else None, statistics.fmean(seconds.values)


def _speed(seconds: Curve, tokens: float | None) -> Curve:
    """Tokens per second of each step, from the seconds it took."""
    found = [(s, tokens / v) for s, v in zip(seconds.steps, seconds.values, strict=True) if tokens and v > 0]
    return Curve(tuple(s for s, _ in found), tuple(v for _, v in found))


def _samples(folder: PhaseFolder) -> tuple[Sample, ...]:
    texts = ("prompt", "text", "finish_reason", "from", "error", "target")
    found = list[Sample]()
    for row in folder.samples.read():
        prompt, text, reason, origin, error, target = (str(row.get(k, "")) for k in texts)
        looks = _looks(row.get("attention"))
        found.append(Sample(int(row["step"]), prompt, text, reason, origin, error, target, looks))
    return tuple(found)


def _looks(saved: Any) -> tuple[tuple[str, tuple[tuple[str, float], ...]], ...]:
    """What a sample's row has of attention; nothing where that is of another form."""
    try:
        return tuple((str(word), tuple((str(at), float(share)) for at, share in looks)) for word, looks in saved or ())
    except (TypeError, ValueError):
        return ()


def _ledger(shares: Sequence[SharePlan], saved: Any, whole: bool) -> tuple[LedgerRow, ...]:
    """The plan's shares beside what was counted at the end of the phase; a part of it was read where it is not
    `whole`, of which the plan does not say how much."""
    counted = counts_of(saved)
    return tuple(
        LedgerRow(
            s.source,
            s.share,
            s.epochs,
            {k: getattr(s, k) if whole or not k.startswith("tokens") else None for k in COUNTED},
            {k: counted.get(s.source, {}).get(k) for k in COUNTED},
            s.dropped,
            s.validation_dropped,
        )
        for s in shares
    )


def counts_of(saved: Any) -> dict[str, dict[str, int]]:
    """Source -> counts, from a ledger as it is saved: `{counts: {source: ...}}` or rows that name their source."""
    if isinstance(saved, Mapping):
        return {str(s): dict(found) for s, found in saved.get("counts", {}).items()}
    return {str(row["source"]): {k: v for k, v in row.items() if k in COUNTED} for row in saved or ()}
