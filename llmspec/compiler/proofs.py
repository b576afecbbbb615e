"""What is proven of a plan before anything is spent, and the evidence. A proof that fails refuses the run.

Pure functions of the plan; what hangs on the text is proven by llmspec/data/proofs.py once it has been read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product
from typing import Any

from llmspec.compiler import masks
from llmspec.compiler.network import block_parts
from llmspec.compiler.plan import ModelPlan, PhasePlan, Plan
from llmspec.core.problems import Problem, SpecError
from llmspec.parts.base import Frozen

PLACES = 16
"""Blocks up to this many places are gone through pair by pair."""
DIVIDED = 8
"""Blocks up to this many places are gone through in every division into documents."""
RATES = 2000
"""Steps at which a learning rate is looked at, at most, evenly spread."""

FUTURE, APART = "no token sees the future", "no token sees another document"
COUNTED, BUDGETED = "every parameter is counted", "every budget holds"
LEARNED, MARKED = "every block teaches something", "only what is meant to be learned is learned"
NUMBERED, UNSEEN = "documents are numbered apart", "nothing is trained on that is validated with"


class Proof(Frozen):
    """Something that was shown of a plan."""

    name: str
    """What holds, as a sentence."""
    holds: bool | None
    """Whether it was shown; None where it waits for the data, or where the spec does not ask for it."""
    evidence: str
    """How it was shown, with counts; of what does not hold, the first counterexample."""
    hint: str = ""
    path: tuple[str, ...] = ()
    """Where in the spec it went wrong."""

    @property
    def problem(self) -> Problem:
        """What a proof that fails says to the user."""
        return Problem(
            f"not so: {self.name}. {self.evidence}",
            self.path,
            self.hint,
            "the run would compute something else than the spec says",
        )


def refuse(proofs: Iterable[Proof]) -> None:
    """Raises SpecError with a problem for each proof that fails."""
    if failed := [proof.problem for proof in proofs if proof.holds is False]:
        raise SpecError(failed)


def prove(plan: Plan) -> tuple[Proof, ...]:
    """Everything that a plan shows by itself; more of a plan that its data have completed."""
    return (*mask_proofs(plan), parameter_proof(plan.model), *((budget_proof(plan),) if plan.phases else ()))


def pending(plan: Plan) -> tuple[Proof, ...]:
    """The proofs that wait for the data; none of a plan that trains nothing."""
    if not plan.phases:
        return ()
    masked = any(phase.phase.document_mask for phase in plan.phases)
    names = (LEARNED, MARKED, *((NUMBERED,) if masked else ()), UNSEEN)
    return tuple(Proof(name=name, holds=None, evidence="proven when the data are read") for name in names)


# -- who may look at whom ------------------------------------------------------------------------------------------
def mask_proofs(plan: Plan) -> tuple[Proof, ...]:
    """Of every mask in use: causality, isolation, no padding seen, no row without a key."""
    heads = f"{plan.model.layers} attention layer{'s' * (plan.model.layers > 1)}"
    apart = [p.name for p in plan.phases if p.phase.document_mask]
    across = [p.name for p in plan.phases if not p.phase.document_mask]
    found = [_mask_proof(FUTURE, masks.Mask(), f"{heads}, {', '.join([*across, 'decoding'])}")]
    if apart:
        found.append(_mask_proof(APART, masks.Mask(documents=True), f"{heads}, {', '.join(apart)}"))
    return tuple(found)


def _mask_proof(name: str, mask: masks.Mask, where: str) -> Proof:
    wrong, evidence = examined(mask, type(mask).allows)
    return Proof(
        name=name,
        holds=not wrong,
        evidence=f"{wrong or evidence} ({where})",
        hint="the relation in llmspec/compiler/masks.py is at fault, not your spec" if wrong else "",
    )


@cache
def examined(mask: masks.Mask, relation: Callable[..., Any]) -> tuple[str, str]:
    """(what is wrong with a mask or '', evidence that nothing is). `relation` is its `allows`.

    All small blocks are gone through. That it holds in longer ones follows from a second look: asked with places and
    documents that can do nothing but be compared, the relation can only be a table over the order of the two places
    and whether the documents are the same, and every line of that table occurs in a small block.
    """
    pairs = 0
    for documents, filled in blocks(mask.documents):
        for query, key in product(range(len(documents)), repeat=2):
            pairs += 1
            seen = bool(relation(mask, query, key, documents[query], documents[key]))
            if wrong := forbidden(mask, documents, filled, query, key, seen):
                shown = "" if not mask.documents else f" of documents {' '.join(map(str, documents))}"
                return f"in a block{shown}, place {query} {wrong} {key}", ""
    try:
        relation(mask, Place(), Place(), Document(), Document())
    except TypeError as error:
        return f"the relation does more than compare ({error}), so that nothing follows for longer blocks", ""
    divided = f", every division into documents up to {DIVIDED}" if mask.documents else ""
    return "", (
        f"{pairs:,} pairs of query and key in all blocks up to {DIVIDED if mask.documents else PLACES} "
        f"places{divided}; longer ones by order alone, since the relation only compares"
    )


def blocks(divided: bool) -> Iterator[tuple[tuple[int, ...], int]]:
    """(document of each place, places that are filled) of small blocks; padding stands last, as a document of its own
    under a document mask."""
    for length in range(1, (DIVIDED if divided else PLACES) + 1):
        for filled in range(1, length + 1):
            for cuts in product((0, 1), repeat=filled - 1) if divided else [(0,) * (filled - 1)]:
                documents = [0]
                for cut in cuts:
                    documents.append(documents[-1] + cut)
                documents += [documents[-1] + divided] * (length - filled)
                yield tuple(documents), filled


def forbidden(mask: masks.Mask, documents: tuple[int, ...], filled: int, query: int, key: int, seen: bool) -> str:
    """What is wrong with seeing, or with not seeing, a key; '' where it is right."""
    if seen and key > query:
        return "sees the future place"
    if seen and mask.documents and documents[query] != documents[key]:
        return "sees another document at place"
    if seen and query < filled <= key:
        return "sees the padding at place"
    if not seen and query == key:
        return "does not even see place"
    if not seen and key < query and documents[query] == documents[key]:
        return "does not see its own past at place"
    return ""


class Place:
    """A place of which nothing is known: it can be compared with another, and that is all it can do."""

    def _compared(self, other: object) -> Verdict:
        if type(other) is not type(self):
            raise TypeError(f"a {type(self).__name__.lower()} is compared with a {type(other).__name__}")
        return Verdict()

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _compared  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Document(Place):
    """The same for documents."""


class Verdict:
    """The result of a comparison: it joins others, and nobody may look at it."""

    def _joined(self, other: object) -> Verdict:
        if not isinstance(other, Verdict):
            raise TypeError(f"a comparison is joined with {other!r}")
        return self

    __and__ = __or__ = __xor__ = _joined

    def __bool__(self) -> bool:
        raise TypeError("it branches on a comparison")


# -- parameters ----------------------------------------------------------------------------------------------------
def parameter_proof(model: ModelPlan) -> Proof:
    """The tensor table holds what the parts ask for, each once, and no more."""
    dims, width = model.dims, model.vocab * model.d_model
    of_parts = {name: sum(_count(t.shape) for t in part.tensors(dims)) for name, part in block_parts(model)}
    layer = sum(of_parts.values())
    once = {
        "position": sum(_count(t.shape) for t in model.position.tensors(dims)),
        "final_norm": of_parts["attention_norm"] if model.norm.placement == "pre" else 0,
        "lm_head": 0 if model.tied_embeddings else width,
    }
    expected = width + model.layers * layer + sum(once.values())
    terms = [
        f"{model.vocab:,} × {model.d_model:,} of the embedding",
        f"{model.layers:,} × {layer:,} of a layer",
        *(f"{n:,} of {name}" for name, n in once.items() if n),
    ]
    names = [t.name for t in model.tensors]
    if twice := sorted({n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else ()):
        return Proof(name=COUNTED, holds=False, evidence=f"the table has {twice[0]} twice")
    found = model.parameters
    relation = f"{' + '.join(terms)} = {expected:,}"
    return Proof(
        name=COUNTED,
        holds=found == expected,
        evidence=f"{relation}, and the table of {len(names):,} tensors has {found:,}",
        hint="" if found == expected else "a part's `tensors` is at fault, not your spec",
    )


def _count(shape: tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n


# -- budgets -------------------------------------------------------------------------------------------------------
def budget_proof(plan: Plan) -> Proof:
    """Of every phase: blocks fill its steps, no source is repeated beyond its cap, rates stay below their peak."""
    caps = {s.name: s.source.max_epochs for s in plan.sources}
    told, waiting = [], False
    for phase in plan.phases:
        for wrong, path in (*_lengths(phase, caps, plan.model.context), *_rates(phase)):
            return Proof(name=BUDGETED, holds=False, evidence=wrong, path=("phases", phase.name, *path))
        waiting |= not phase.exact
        if phase.steps is None:
            told.append(f"{phase.name}: {phase.phase.budget}")
            continue
        most = max(((s.epochs or 0.0, s.source) for s in phase.shares), default=(0.0, ""))
        repeats = f", {most[1]} most often: {most[0]:.3g} of {caps.get(most[1], 0):g} epochs" if phase.exact else ""
        told.append(f"{phase.name}: {phase.steps:,} steps, {phase.tokens or 0:,} tokens{repeats}")
    evidence = "; ".join(told) + ("; epochs are known when the data are read" if waiting else "")
    return Proof(name=BUDGETED, holds=None if waiting else True, evidence=evidence)


Wrong = Iterator[tuple[str, tuple[str, ...]]]
"""What is wrong, and where below the phase."""


def _lengths(planned: PhasePlan, caps: dict[str, float], context: int) -> Wrong:
    if not planned.exact or planned.steps is None:
        return
    phase, per_step = planned.phase, planned.phase.micro_batch_size * planned.phase.gradient_accumulation_steps
    blocks = sum(s.blocks or 0 for s in planned.shares)
    if planned.steps < 1 or blocks != planned.steps * per_step:
        yield f"{planned.steps:,} steps of {per_step} blocks are planned, and {blocks:,} blocks", ("budget",)
    if phase.budget.unit == "steps" and planned.steps != phase.budget.amount:
        yield f"{planned.steps:,} steps are planned of {phase.budget}", ("budget",)
    counted = next((s.blocks for s in planned.shares if s.source == phase.budget.source), 0) or 0
    for share in planned.shares:
        if not share.blocks or share.epochs is None:
            continue
        # Filling the last step, or the last block of a counted epoch, is not held against the source.
        filling = per_step + 1 + (share.blocks / counted if counted else 0)
        allowed = caps.get(share.source, 0.0) + filling * share.epochs / share.blocks
        if share.epochs > allowed * (1 + 1e-6):
            yield (
                f"{share.source} is read {share.epochs:.4g} times, and its max_epochs is {caps[share.source]:g}",
                ("mixture", share.source),
            )
        if (share.tokens_read or 0) > share.blocks * context or (share.tokens_supervised or 0) > (
            share.tokens_read or 0
        ):
            yield (
                (
                    f"{share.source}: {share.tokens_supervised} supervised of {share.tokens_read} tokens are more than "
                    f"{share.blocks} blocks hold"
                ),
                ("mixture", share.source),
            )


def _rates(planned: PhasePlan) -> Wrong:
    steps = planned.steps or 0
    every = max(1, steps // RATES)
    for step in range(0, steps, every):
        factor = planned.phase.schedule.factor(step, steps)
        if not 0 <= factor <= 1 + 1e-9:
            yield f"the learning rate of step {step + 1:,} is {factor:g} times its peak", ("schedule",)
            return
