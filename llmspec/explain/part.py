"""One part of a plan in depth: what it is, its formula and its papers, its settings, its weights, what it costs."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic_core import PydanticUndefined

from llmspec.compiler import walk
from llmspec.compiler.budget import learning_rates
from llmspec.compiler.cost import update_cost
from llmspec.compiler.memory import FLOAT
from llmspec.compiler.plan import PhasePlan, Plan, StackPlan
from llmspec.compiler.updates import state_numbers
from llmspec.core.problems import Problem, SpecError, one_of
from llmspec.core.units import Text, count, flops, size
from llmspec.explain.lesson import Lesson
from llmspec.explain.model import TensorRow, folded, tensor_rows
from llmspec.explain.report import Report, described
from llmspec.parts.base import ElementwiseOps, ModelPart, Part
from llmspec.spec.shape import description, fields_of

PAPER = re.compile(r"\(((?:[A-Z]|von |van |de )[^()]*\b(?:19|20)\d\d\b[^()]*)\)")
"""An author and a year in brackets, as docstrings name their sources."""


@dataclass(frozen=True)
class SettingReport:
    """A key of the part."""

    key: str
    value: Any
    default: Any
    means: str


@dataclass(frozen=True)
class PartReport(Report):
    """Everything about one part."""

    about: ClassVar[str] = "part"
    path: str
    kind: str
    what: tuple[str, ...]
    """Sentences, the part's own first."""
    formula: str
    papers: tuple[str, ...]
    settings: tuple[SettingReport, ...]
    tensors: tuple[tuple[str, int, TensorRow], ...]
    """(name, how many equal ones, one of them)."""
    costs: tuple[tuple[str, str], ...]
    """(name, amount in words)."""
    curve: tuple[float, ...]
    """Learning rates over the phase, where the part shapes them."""
    lesson: Lesson | None = None
    """What an update of the phase did to one token, where the run knows it."""
    no_lesson: str = ""
    """Why that is not known, of phases that it could be known of."""


def parts_of(plan: Plan) -> dict[str, Part]:
    """Every part of a plan by its path in the spec."""
    found: dict[str, Part] = dict(model_parts(plan))
    found |= {"tokenizer": plan.tokenizer, "chat_template": plan.chat_template}
    found |= {f"data.sources.{s.name}": s.source for s in plan.sources}
    for planned in plan.phases:
        found[f"phases.{planned.name}"] = planned.phase
        for key in ("optimizer", "schedule", "objective"):
            found[f"phases.{planned.name}.{key}"] = getattr(planned.phase, key)
    return {**found, **{f"decoding.{part.kind}": part for part in plan.decoding.chain()}}


def model_parts(plan: Plan) -> Iterator[tuple[str, Part]]:
    """(path in the spec, part) of every part of the network."""
    model = plan.model
    yield "model.embedding", model.embedding
    yield "model.position", model.position
    for stack in model.stacks:
        top, added = ".".join(["model", *own_key(stack)]), stack.position or model.position
        if stack.position is not None:
            yield f"{top}.position", stack.position
        for block in stack.blocks:
            at = top if block.name == "block" else f"{top}.blocks.{block.name}"
            for key in ("attention", "mask", "mlp", "norm"):
                yield f"{at}.{key}", getattr(block, key)
            if block.cross_attention is not None:
                yield f"{at}.cross_attention", block.cross_attention
            if block.position != added:
                yield f"{at}.position", block.position
    yield "model.norm", model.norm
    yield from ((f"model.heads.{name}", head) for name, head in model.heads.items())


def own_key(stack: StackPlan) -> list[str]:
    """The key of the model below which a stack's settings stand; none of the decoder's."""
    return [stack.name] if walk.prefix(stack) else []


def pieces_of(plan: Plan, path: str) -> list[walk.Piece]:
    """The pieces of the network that the part at a path of the spec makes."""
    if not path.startswith("model."):
        return []
    _, *where, key = path.split(".")
    found, stacks = [], {stack.name: own_key(stack) for stack in plan.model.stacks}
    for piece in walk.walk(plan.model):
        own = [*stacks.get(piece.stack, []), *(["blocks", piece.block] if piece.block not in ("", "block") else [])]
        if piece.kind == "head":
            here = where == ["heads"] and piece.path == walk.head_path(key)
        elif piece.kind == "position":
            inside = where[:1] if where[:1] in stacks.values() else []
            below = where[len(inside) :]
            here = key == "position" and piece.path == ".".join([*inside, "position" + "s" * bool(below), *below[1:]])
        else:
            here = piece.kind == key and where == own
        if here:
            found.append(piece)
    return found


def explain_part(plan: Plan, path: str, lesson: Callable[[str], Lesson | str] = lambda phase: "") -> PartReport:
    """The report of the part at `path`; `lesson` tells of a phase what an update did to a token, or why that is not
    known. Raises SpecError where there is no such part."""
    parts = parts_of(plan)
    if path not in parts:
        ends = [name for name in parts if name.endswith(f".{path}")]
        hint = f"did you mean `{ends[0]}`?" if len(ends) == 1 else one_of(path, ends or parts)
        raise SpecError(Problem(f"the spec has no part `{path}`", ("--part",), hint))
    part = parts[path]
    planned = next((p for p in plan.phases if path.startswith(f"phases.{p.name}")), None)
    taught = lesson(planned.name) if planned is not None and path == f"phases.{planned.name}" else ""
    shaping = planned is not None and path.endswith((".optimizer", ".schedule"))
    return PartReport(
        path=path,
        kind=getattr(part, "kind", ""),
        what=tuple(sentences(type(part))),
        formula=part.formula,
        papers=papers(type(part)),
        settings=tuple(settings(part)),
        tensors=weights(plan, path),
        costs=tuple(costs(plan, path, part, planned)),
        curve=tuple(rate for _, rate in learning_rates(planned)) if shaping and planned else (),
        lesson=taught if isinstance(taught, Lesson) else None,
        no_lesson=taught if isinstance(taught, str) else "",
    )


def sentences(part: type[Part]) -> Iterator[str]:
    """The first paragraph of the docstring of the part and of what it is a kind of."""
    for kind in part.__mro__:
        if kind in (Part, ModelPart) or not issubclass(kind, Part):
            return
        if written := inspect.cleandoc(kind.__dict__.get("__doc__") or ""):
            # What `build` makes is for those who write parts.
            yield " ".join(written.split("\n\n")[0].split(" build(")[0].split())


def papers(part: type[Part]) -> tuple[str, ...]:
    """The sources that the docstrings of the part and of its module name, each once."""
    found: dict[str, None] = {}
    for kind in part.__mro__:
        if kind in (Part, ModelPart) or not issubclass(kind, Part):
            break
        module = sys.modules[kind.__module__].__doc__ or ""
        for text in (module, kind.__dict__.get("__doc__") or ""):
            found |= dict.fromkeys(" ".join(paper.split()) for paper in PAPER.findall(text))
    # `Su et al. 2021` says less than `Su et al. 2021, section 3.2`.
    return tuple(p for p in found if not any(p != other and other.startswith(p) for other in found))


def settings(part: Part) -> Iterator[SettingReport]:
    """Every key but `kind`, as it is in the plan."""
    written = part.model_dump(mode="json", by_alias=True)
    for key, info in fields_of(type(part)).items():
        if key == "kind":
            continue
        default, value = info.get_default(call_default_factory=True), getattr(part, key, None)
        yield SettingReport(
            key,
            described(value) if isinstance(value, Part) else written[key],
            _plain(default),
            description(type(part), key),
        )


def _plain(default: Any) -> Any:
    """A default as it would stand in a spec; None where there is none."""
    if isinstance(default, Part):
        return described(default)
    if isinstance(default, Text):
        return str(default)
    if isinstance(default, tuple):
        return [_plain(item) for item in default]
    return None if default is PydanticUndefined else default


def weights(plan: Plan, path: str) -> tuple[tuple[str, int, TensorRow], ...]:
    """The rows of the tensor table that belong to a part of the model, equal layers folded."""
    names = {
        f"{piece.path.replace('*', str(layer))}.{t.name}"
        for piece in pieces_of(plan, path)
        for layer in piece.layers or (0,)
        for t in piece.part.tensors(piece.dims)
    }
    return tuple(folded([row for row in tensor_rows(plan.model) if row.name in names]))


def costs(plan: Plan, path: str, part: Part, planned: PhasePlan | None) -> Iterator[tuple[str, str]]:
    """What a part costs: parameters, operations, memory."""
    model = plan.model
    if isinstance(part, ModelPart):
        own = pieces_of(plan, path)
        held = sum(copies * row.parameters for _, copies, row in weights(plan, path))
        active = sum(p.copies * p.part.active(p.dims) for p in own)
        used = f", of which a token uses {active:,}" if active < held else ""
        yield "parameters", f"{held:,} ({held / model.parameters:.1%} of the model's){used}"
        products = sum(p.uses * p.rate * p.part.flops(p.dims) for p in own)
        if products:
            yield (
                "products",
                (
                    f"{flops(products)} a token forward ({products / model.flops_per_token:.1%} of the "
                    "model's), twice that backward"
                ),
            )
        other = ElementwiseOps().plus(*(p.part.elementwise(p.dims).times(p.uses * p.rate) for p in own))
        yield "other operations", f"about {count(other.forward)} a token forward, {count(other.backward)} backward"
        saved = sum(p.uses * p.rate * p.part.saved_for_backward(p.dims) for p in own)
        yield "saved for backward", f"{size(FLOAT * saved)} a token, without the scores"
    if planned is not None and path.endswith(".optimizer"):
        cost = update_cost(model, planned.phase)
        state = FLOAT * state_numbers(planned.model, planned.phase)
        yield "state", f"{size(state)}: {state / (FLOAT * model.parameters):.3g} values for each parameter"
        yield "a step's update", f"{flops(cost.products)} in matrix products, {flops(cost.total)} in all"
