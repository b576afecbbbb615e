"""Peak bytes of each phase, by formula: what stays, what the backward pass keeps, what passes by.

A training step holds most at one of a few moments: as the backward pass starts (all activations, and the logits with
their gradient), inside the backward pass of the last block (all activations, and what that block works with), inside
that of the first block (one block's activations, and nearly all gradients), or in the update (all gradients). The
formulas give each moment; the largest is the peak. llmspec.model.graph_memory asks the graphs themselves.

Letters: N tokens of a pass (batch · context), D width, F hidden width, V vocabulary, H heads, T context, W parameters.
Numbers are float32 where nothing else is said.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from llmspec.compiler import walk
from llmspec.compiler.cost import share_read, tied
from llmspec.compiler.critic import critic_of
from llmspec.compiler.decoding_cost import ROWS
from llmspec.compiler.dropped import adapter_dropped, block_dropped
from llmspec.compiler.inputs import NONE, step_inputs
from llmspec.compiler.memory_plan import MemoryPlan
from llmspec.compiler.others import Others
from llmspec.compiler.phase_model import artifact
from llmspec.compiler.plan import ModelPlan
from llmspec.compiler.updates import state_numbers
from llmspec.parts.objectives.value_function import CRITIC
from llmspec.parts.others import StartModel
from llmspec.parts.phases import Phase
from llmspec.parts.phases.base import POLICY

FLOAT = 4
"""Bytes of a number."""
COMPARED = 4.0
"""Arrays of the similarities of all texts of a pass, their gradient included."""
SAMPLED_ROWS = 1
"""Texts that are decoded side by side while a phase trains, unless it learns from what it draws."""


BOTH = ("weights", "optimizer", "sums", "batch", "activations", "logits", "gradients", "evaluation")
"""What a critic holds as the policy does, since captured steps keep their places."""


class MemoryModel(NamedTuple):
    """What a backend holds; unit: whole arrays of scores (B·H·T·T) or of logits (N·V)."""

    scores_kept: float
    """Arrays of scores that each block keeps for its backward pass; 0 where only a sum a row is kept."""
    scores_passing: float
    """Arrays of scores that the backward pass of one block works with beside those."""
    scores_forward: float
    """Arrays of scores that the forward pass of one block works with, where nothing is kept."""
    logits: float
    """Arrays of logits, their gradient included, as the backward pass starts."""
    adam: float
    """Places for a number of a weight that Adam's update works with, where that is a step of its own."""
    muon: float
    """The same of a matrix that Muon makes orthogonal. Measured."""
    parts_kept: float = 1.0
    """Of the numbers that a block's parts keep; operands of products are kept rounded alone."""
    capped: float = 0.0
    """Arrays of logits more where a softcap bounds them."""
    rounded: float = 0.0
    """Places for a weight's rounded copy, which the backward pass reads."""


PLAIN = MemoryModel(scores_kept=2, scores_passing=3, scores_forward=2, logits=2, adam=2, muon=2.3, capped=2)
"""tinygrad's own kernels, on every GPU."""
MIXED = PLAIN._replace(scores_kept=1.5, parts_kept=0.7, rounded=0.5)
"""The same with products of 16-bit numbers. Fitted to the graphs of five shapes."""
CPU = MemoryModel(scores_kept=0, scores_passing=0, scores_forward=0, logits=1, adam=0, muon=0)
"""Calls of C: attention keeps a sum a row, and the loss writes its gradient where the logits were; Adam's
and Muon's steps are calls in place."""


def memory_model(device: str | None, precision: str | None) -> MemoryModel:
    """How the backend of a device holds what it computes; of what is not known, the most."""
    device, precision = device or "", precision or "float32"
    if device.startswith("CPU"):
        return CPU
    return PLAIN if precision == "float32" else MIXED


def device_memory(device: str) -> int | None:
    """Bytes that a device has, as far as this machine says so: a CPU's physical memory; None for anything else."""
    if not device.startswith("CPU") or not hasattr(os, "sysconf"):
        return None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def memory_of(model: ModelPlan, phase: Phase, memory_model: MemoryModel, others: Others = NONE) -> MemoryPlan:
    """What a phase holds at its peak, item by item, a critic included, which graphs of its own train."""
    held, critic = _memory_of(model, phase, memory_model, others), critic_of(phase, others)
    if critic is None:
        return held
    beside = _memory_of(*critic, memory_model)
    both = {name: getattr(held, name) + getattr(beside, name) for name in BOTH}
    return held.model_copy(update={**both, "others": held.others - FLOAT * others[CRITIC].model.parameters})


def _memory_of(model: ModelPlan, phase: Phase, memory_model: MemoryModel, others: Others = NONE) -> MemoryPlan:
    """The same of the graphs of one model."""
    sizes = ActivationSizes(model, phase, memory_model, others)
    activations, logits, gradients, moment = max(sizes.moments(), key=lambda m: sum(m[:3]))
    return MemoryPlan(
        weights=weight_bytes(model, phase),
        optimizer=FLOAT * state_numbers(model, phase),
        sums=FLOAT * model.trained_parameters if phase.updates_apart else 0,
        batch=sizes.batch(),
        activations=round(FLOAT * activations),
        logits=round(FLOAT * logits),
        gradients=round(FLOAT * gradients),
        evaluation=round(FLOAT * sizes.evaluation()),
        decoding=decoding_bytes(model, drawn_rows(phase)) if artifact(phase, model) == POLICY else 0,
        others=sum(FLOAT * (other.model.parameters + tables(other.model)) for other in others.values()) + asked(phase),
        moment=moment,
    )


def weight_bytes(model: ModelPlan, phase: Phase) -> int:
    """Bytes of a model's weights: those that an adapter stands beside count as they lie, where that is known."""
    start, adapter = phase.from_, model.adapter
    if adapter is None or not isinstance(start, StartModel) or start.bytes is None:
        return FLOAT * model.parameters
    return start.bytes + FLOAT * sum(t.count for t in model.tensors if adapter.owns(t.name))


def asked(phase: Phase) -> int:
    """Bytes of the weights of models that rewards ask and that are there already, as far as they were opened."""
    from llmspec.parts.phases.rollouts import RolloutPhase

    starts = {start for _, start, _ in phase.judge.models()} if isinstance(phase, RolloutPhase) else set()
    return sum(start.bytes or 0 for start in starts)


def drawn_rows(phase: Phase) -> int:
    """Texts that a phase draws side by side."""
    from llmspec.parts.phases.rollouts import RolloutPhase

    return min(ROWS, max(phase.answers, phase.answered)) if isinstance(phase, RolloutPhase) else SAMPLED_ROWS


def decoding_bytes(model: ModelPlan, rows: int) -> int:
    """The cache of keys and values of a full context, and of a whole text that the encoder has read."""
    own = sum(dims.kv_heads * dims.head_dim for dims in walk.layer_dims(model))
    crossed = sum(dims.kv_heads * dims.head_dim for _, dims in walk.cross_layers(model))
    return FLOAT * 2 * rows * (model.context * own + model.encoder_context * crossed)


PeakCandidate = tuple[float, float, float, str]
"""Numbers held as activations, as logits and as gradients, and when."""


class ActivationSizes:
    """The arrays of one pass. Unit: numbers."""

    def __init__(self, model: ModelPlan, phase: Phase, memory_model: MemoryModel, others: Others = NONE) -> None:
        self.model, self.phase, self.memory_model, self.others = model, phase, memory_model, others
        self.tokens = phase.micro_batch_size * model.context
        self.stream = float(self.tokens * model.d_model)
        self.scores, self.kept, self.hidden = 0.0, list[float](), 0.0
        """Scores of the block that has most, what each block keeps for its backward pass, and what its MLP keeps."""
        self.head = float(model.heads[phase.objective.head].outputs(model.dims) * model.d_model)
        self.outputs = self.tokens * share_read(model, phase) * model.heads[phase.objective.head].outputs(model.dims)
        self.beside = float(sum(model.heads[name].outputs(model.dims) for name in phase.objective.beside))
        """Numbers a token of other heads that the objective reads."""
        self.compared = float(phase.objective.compared(phase.micro_batch_size, model.context))
        self.measure_blocks()

    def measure_blocks(self) -> None:
        """Goes over the network's blocks."""
        self.again = 0.0
        """What a layer keeps while its activations are computed again; 0 where all are kept."""
        model, h, first, reached = self.model, self.memory_model, 0, walk.reached_layers(self.model)
        for stack in model.stacks:
            tokens, dims_of = self.tokens * walk.rate(model, stack), walk.stack_dims(model, stack)
            for i, block in enumerate(stack.blocks):
                own = [(kind, p, walk.piece_dims(model, block, stack, kind)) for _, p, kind in walk.block_pieces(block)]
                kept = [(kind, p.saved_for_backward(dims)) for kind, p, dims in own]
                keys = {"attention": dims_of.context, "cross_attention": model.encoder_context}
                scores = [float(tokens * dims.heads * keys[kind]) for kind, _, dims in own if kind in keys]
                # A site of dropout keeps a byte for each number, which says whether it stays; that of the weights of
                # keys keeps those that stay, too, but makes both anew where no scores are kept.
                sites = block_dropped(model, stack, block)
                of_scores = bool(h.scores_kept) * (1 + 1 / FLOAT) * sites.pop("attention", 0.0)
                beside = sum(sites.values()) / FLOAT + of_scores
                whole = tokens * (h.parts_kept * sum(n for _, n in kept) + beside) + h.scores_kept * sum(scores)
                # Nothing is kept of layers that no gradient comes to, since all is frozen up to there.
                self.kept += [whole] * sum(first + layer in reached for layer in stack.layers_of(i))
                self.scores = max(self.scores, *scores)
                self.hidden = max(self.hidden, tokens * sum(n for kind, n in kept if kind == "mlp"))
            first += len(stack.order)
        # What adapters read of what is dropped, and a byte for each of its numbers.
        each = self.tokens * (1 + 1 / FLOAT) * adapter_dropped(model) / max(1, len(self.kept))
        self.kept = [kept + each for kept in self.kept]
        if self.phase.activation_checkpointing:
            # What enters each layer, and the last norm, is kept; a layer's own activations come and go.
            self.again, self.kept = self.block(), [self.stream] * (len(self.kept) + 1)
            return
        if around := h.parts_kept * self.tokens * model.embedding.saved_for_backward(model.dims):
            self.kept.append(around)  # by the norm of the embedding

    def block(self) -> float:
        """What the block that keeps most keeps for its backward pass."""
        return self.again or max(self.kept, default=0.0)

    def moments(self) -> list[PeakCandidate]:
        """What a training step holds when it may hold most."""
        parameters, h = float(self.model.trained_parameters), self.memory_model
        # The encoder's last states stay for every cross-attention, and for its gradient.
        states = self.phase.micro_batch_size * self.model.encoder_context * self.model.d_model
        kept = sum(self.kept) + 2 * states + h.rounded * self.model.parameters
        capped = getattr(self.model.heads[self.phase.objective.head], "softcap", None) is not None
        logits = ((self.phase.objective.logit_arrays or h.logits) + h.capped * capped) * self.outputs
        logits += COMPARED * self.compared + 2 * self.beside * self.tokens
        # The gradients of all that a block's MLP keeps, and copies of some; or, once those are gone, the attention's.
        # Where they are computed again, what follows the MLP is not, and copies of its states are gone. Fitted.
        copied = 1.0 if self.again else 5 / 3
        inside = max(self.hidden * copied + self.stream, h.scores_passing * self.scores - self.hidden)
        # An update apart from its passes is a step of its own, whose places lie beside those of a pass.
        update = self.update() if self.phase.updates_apart else 0.0
        moments = [
            (kept + 4 * self.stream, logits, 0.0, "as the backward pass starts"),
            (kept + self.again + inside, 0.0, self.head_gradient(), "in the backward pass of the last block"),
            (self.block() + inside, 0.0, parameters, "in the backward pass of the first block"),
        ]
        if embedded := self.embedding_trained():
            again = self.head if tied(self.model, self.phase) else 0.0
            moments.append((2 * self.stream, 0.0, parameters + again, "in the gradient of the embeddings"))
        if not (self.kept or embedded):  # of a head alone
            moments = [moments[0], (self.stream, 0.0, parameters, "in the gradient of the head")]
        return [(a, b, c + update, when) for a, b, c, when in moments]

    def head_gradient(self) -> float:
        """The gradients of the heads' matrices."""
        own = f"{walk.head_path(self.phase.objective.head)}."
        if tied(self.model, self.phase):
            return self.beside * self.model.d_model + (self.head if self.embedding_trained() else 0.0)
        return self.beside * self.model.d_model + (
            self.head if any(t.name.startswith(own) for t in self.model.trained) else 0.0
        )

    def embedding_trained(self) -> bool:
        """Whether the token embedding has a gradient."""
        return any(t.name == f"{walk.EMBEDDING}.weight" for t in self.model.trained)

    def update(self) -> float:
        """What an update that is a step of its own works with: clipped gradients, and new values before they are
        assigned."""
        optimizer, found = self.phase.optimizer, 0.0
        for t in self.model.trained:
            states = sum(shape == t.shape for shape in optimizer.state(t.role, t.shape).values())
            if optimizer.products(t.role, t.shape):  # Muon's products: the matrix, its square, the next one
                found += self.memory_model.muon * t.count
            else:
                found += t.count * (self.memory_model.adam if states == 2 else max(1, states))
        return found

    def evaluation(self) -> float:
        """What a forward pass with its losses works with: one block at a time, or the logits."""
        block = max(self.memory_model.scores_forward * self.scores + 3.4 * self.stream, self.hidden + 3 * self.stream)
        # What is measured in validation alone has logits of its own.
        asked = self.phase.objective
        arrays = max(1.0, asked.logit_arrays - 1, asked.logits_measured)  # without the gradient
        logits = self.outputs * (2 if asked.measured else arrays) + COMPARED * self.compared
        return max(block, logits + 2 * self.stream)

    def batch(self) -> int:
        """Bytes of what a step reads anew, and of the tables of positions."""
        inputs = step_inputs(self.model, self.phase, self.others).values()
        return sum(spec.nbytes for spec in inputs) + FLOAT * tables(self.model)


def tables(model: ModelPlan) -> int:
    """Elements of the constant tables of positions."""
    return sum(part.table_numbers(dims) for part, dims, _ in walk.positions(model).values())
