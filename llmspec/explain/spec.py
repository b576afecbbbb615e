"""What a spec will do, from its plan alone: nothing is read, allocated or computed that a plan does not hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmspec.compiler import walk
from llmspec.compiler.budget import COMPUTE_OPTIMAL
from llmspec.compiler.checks import Check, pending, plan_checks
from llmspec.compiler.plan import Plan
from llmspec.core.units import count
from llmspec.explain.chain import ChainReport, chain_report
from llmspec.explain.examples import Example, Tokenization, examples, tokenization
from llmspec.explain.memory import MemoryReport, memory_limit, memory_reports
from llmspec.explain.model import MaskPicture, TensorRow, TreeNode, mask_pictures, model_tree, tensor_rows
from llmspec.explain.phases import PhaseReport, SourceReport, phase_reports, source_reports
from llmspec.explain.report import Report, described
from llmspec.explain.templates import FilledTemplate, filled_templates
from llmspec.forecast.decoding import DecodingSpeed, speed
from llmspec.forecast.estimates import Forecast

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData

FAR = 2.0
"""A ratio this many times above or below the optimum is called far from it."""
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


@dataclass(frozen=True)
class DecisionReport:
    """A value that was chosen for a key the spec left open."""

    path: str
    value: Any
    why: str


@dataclass(frozen=True)
class SpecReport(Report):
    """Everything a spec will do."""

    about: ClassVar[str] = "spec"
    name: str
    seed: int
    device: str
    precision: str
    """What the operands of products are rounded to."""
    beam: int
    """Width of the search for the fastest form of each GPU kernel; 0: none."""
    parameters: int
    active_parameters: int
    """Parameters that one token uses: fewer than all where a router chooses among experts."""
    weight_bytes: int
    d_model: int
    layers: int
    """Of all stacks."""
    encoder_layers: int
    """Those of them that are the encoder's; 0 without one."""
    context: int
    """Tokens."""
    vocab: int
    tokenizer: str
    chat_template: str
    """How dialogues become tokens; '' where every phase reads plain text."""
    dropout: float | Mapping[str, float]
    """The share that training drops, or those of each site that are not 0."""
    flops_per_token: float
    """Forward pass at full context, matrix products only."""
    flops: float | None
    """Training, all phases; None while a length is unknown, and where there is no phase."""
    model: TreeNode
    tensors: tuple[TensorRow, ...]
    masks: tuple[MaskPicture, ...]
    sources: tuple[SourceReport, ...]
    phases: tuple[PhaseReport, ...]
    decoding: ChainReport
    decisions: tuple[DecisionReport, ...]
    checks: tuple[Check, ...]
    """What was checked before training."""
    remarks: tuple[str, ...]
    memory: tuple[MemoryReport, ...] = ()
    memory_limit: int | None = None
    """Bytes that the device may hold; None where nobody knows."""
    memory_limit_from: str = ""
    """Whose word that is."""
    examples: tuple[Example, ...] = ()
    """A document of each source as phases read it, where the data are at hand."""
    filled: tuple[FilledTemplate, ...] = ()
    """A record of each source that has a task's template or examples, as a dialogue."""
    tokenization: Tokenization | None = None
    """The tokenizer on a sentence, where it is trained."""
    times: tuple[Forecast, ...] = ()
    """What phases are expected to take, where this machine is known."""
    decoding_speed: DecodingSpeed | None = None
    """What drawing a token reads, and how fast that is on this machine; None where the model draws no text."""
    note: str = ""
    """Why some numbers are missing."""


def explain_plan(
    plan: Plan,
    note: str = "",
    checks: Sequence[Check] | None = None,
    exact: Mapping[str, Mapping[str, int]] | None = None,
    times: Mapping[str, Forecast] | None = None,
    prepared: PreparedData | None = None,
) -> SpecReport:
    """The report of a plan: `note` says why some of its numbers are missing, `checks` are those of its data.

    `exact` is what the graphs would hold, in bytes; `times` what phases are expected to take, by name; `prepared`
    what they read, where that is at hand.
    """
    model, (limit, whose) = plan.model, memory_limit(plan)
    flops = [p.flops for p in plan.phases]
    known = [f for f in flops if f is not None]
    return SpecReport(
        name=plan.name,
        seed=plan.seed,
        device=plan.device,
        precision=plan.precision,
        beam=plan.beam,
        parameters=model.parameters,
        active_parameters=walk.active_parameters(model),
        weight_bytes=sum(t.count * BYTES[t.dtype] for t in model.tensors),
        d_model=model.d_model,
        layers=model.layers,
        encoder_layers=len(model.encoder.order) if model.encoder is not None else 0,
        context=model.context,
        vocab=model.vocab,
        tokenizer=described(plan.tokenizer, "vocab"),
        chat_template=described(plan.chat_template)
        if not plan.phases or any(p.phase.templated for p in plan.phases)
        else "",
        dropout=model.dropout if isinstance(model.dropout, float) else model.drops.named,
        flops_per_token=model.flops_per_token,
        flops=sum(known) if flops and len(known) == len(flops) else None,
        model=model_tree(plan.name, model),
        tensors=tensor_rows(model),
        masks=mask_pictures(plan),
        sources=source_reports(plan),
        phases=phase_reports(plan),
        decoding=chain_report(plan.decoding),
        decisions=tuple(DecisionReport(d.path, d.value, d.why) for d in plan.decisions),
        checks=(*plan_checks(plan), *(pending(plan) if checks is None else checks)),
        remarks=tuple(remarks(plan)),
        memory=memory_reports(plan, exact),
        memory_limit=limit,
        memory_limit_from=whose if limit is not None else "",
        examples=examples(prepared) if prepared else (),
        filled=filled_templates(prepared) if prepared else (),
        tokenization=tokenization(prepared.codec) if prepared else None,
        times=tuple((times or {}).values()),
        decoding_speed=speed(model, plan.device),
        note=note,
    )


def remarks(plan: Plan) -> list[str]:
    """What a person who knows the field would say to this plan."""
    found = []
    reading = [p.tokens for p in plan.phases if not p.phase.templated]
    tokens = sum(t for t in reading if t)
    if tokens and all(reading):
        ratio = tokens / max(1, plan.model.parameters)
        says = "close to the compute-optimal ratio"
        if ratio > COMPUTE_OPTIMAL * FAR:
            says = "more than is compute-optimal: costs more to train, and is better for its size"
        elif ratio < COMPUTE_OPTIMAL / FAR:
            says = "less than is compute-optimal: a smaller model that reads more would reach a lower loss"
        found.append(
            f"{count(tokens)} tokens of plain text for {count(plan.model.parameters)} parameters are "
            f"{ratio:.2g} tokens per parameter, {says} (about {COMPUTE_OPTIMAL:g}, Hoffmann et al. 2022, "
            "measured on models of 70 million parameters and more)."
        )
    unlicensed = [s.name for s in plan.sources if not s.source.license]
    if unlicensed:
        found.append(
            f"no licence is given for {', '.join(unlicensed)}: write `license:` at the source, and it is "
            "named wherever its text is used."
        )
    return found
