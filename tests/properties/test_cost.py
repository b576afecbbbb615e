"""FLOPs: the plan's products are those that the graph makes, and its total is what tinygrad counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import tiny
from hypothesis import given, settings
from strategies import specs

from llmspec.compiler import compile_spec
from llmspec.compiler.cost import forward_cost, layer_flops, pass_cost, step_cost, update_cost
from llmspec.compiler.critic import critic_of
from llmspec.compiler.inputs import encoder_inputs
from llmspec.compiler.lengths import shortened
from llmspec.compiler.masks import RANGES, masks_of
from llmspec.compiler.others import cost_beside
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.model.device import open_device
from llmspec.parts.objectives.base import Outputs
from llmspec.parts.optimizers.base import AVERAGE, Learned
from llmspec.parts.phases import Phase
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec

open_device("CPU")
from tinygrad import Tensor  # noqa: E402

from llmspec.backends.plain.ops import Ops  # noqa: E402
from llmspec.model.graph_memory import exact  # noqa: E402
from llmspec.model.steps import states_of  # noqa: E402
from llmspec.model.transformer import Transformer, block_context, states_at  # noqa: E402
from llmspec.parts.ops import Linear, Routing  # noqa: E402


class Counting(Ops):
    """Plain operations that note the FLOPs of every product they make."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
        out = super().matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)
        self.flops += 2 * out.numel() * a.shape[-2 if transpose_a else -1]
        return out

    def linears(self, x: Tensor, layers: Sequence[Linear]) -> Tensor:
        out = super().linears(x, layers)
        self.flops += 2 * out.numel() * x.shape[-1]
        return out

    def grouped_linears(self, x: Tensor, routing: Routing, layers: Sequence[Linear]) -> Tensor:
        out = super().grouped_linears(x, routing, layers)
        # Blocks are filled up with rows that hold no token, and are nobody's work.
        self.flops += 2 * routing.weights.numel() * out.shape[-1] * x.shape[-1]
        return out

    def assign(self, tensor: Tensor, value: Tensor) -> Tensor:
        return value


def counted(model: ModelPlan, phase: Phase) -> tuple[int, int, int]:
    """(FLOPs of the products of a forward pass, from the shapes that meet in it; of those, what has one gradient alone:
    what makes one state of each document, and heads whose gradient reaches no state; and what compares documents);
    nothing is computed. Heads read as many places of a row as the objective asks for."""
    network, ops, objective, batch = Transformer(model), Counting(), phase.objective, phase.micro_batch_size
    tensors = {t.name: Tensor.empty(*t.shape) for t in model.tensors}
    tensors |= {n: Tensor.empty(*a.shape) for n, a in network.tables().items()}
    inputs = {"tokens": Tensor.empty(batch, model.context, dtype="int32")}
    inputs |= {RANGES + n: Tensor.empty(1, model.context, 2, dtype="int32") for n in masks_of(model)}
    read = encoder_inputs(model, batch)
    inputs |= {name: Tensor.empty(*spec.shape, dtype=spec.dtype) for name, spec in read.items()}
    hidden, pooled, places = network.hidden(ops, tensors, inputs, block_context(inputs)), 0, objective.places
    asked = objective.states(model.context)
    if objective.documents and asked is not None:
        before = ops.flops
        hidden = states_of(ops, hidden, Tensor.empty(batch, asked, model.context))
        pooled = ops.flops - before
    elif asked is not None:
        hidden = states_at(ops, hidden, Tensor.empty(batch, asked, dtype="int32"))
    outputs, compared = network.head(ops, tensors, hidden, objective.head), 0
    for name, reaches in objective.beside.items():
        before = ops.flops
        network.head(ops, tensors, hidden, name)
        pooled += 0 if reaches else ops.flops - before
    if objective.compared(batch, model.context):
        before, head = ops.flops, model.heads[objective.head]
        asked_of = objective.document_inputs(batch, places(model.context) or 1, head)
        given = {name: Tensor.empty(*spec.shape, dtype=spec.dtype) for name, spec in asked_of.items()}
        objective.build(model.dims)(ops, Outputs(outputs, None), given)
        compared = ops.flops - before
    return ops.flops, pooled, compared


def counted_update(model: ModelPlan, optimizer: Any) -> int:
    ops = Counting()
    scalars = Tensor.empty(len(optimizer.scalars(1.0, 1)))
    for t in model.trained:
        state = {s: Tensor.empty(*shape) for s, shape in optimizer.state(t.role, t.shape).items()}
        state[AVERAGE] = Tensor.empty(*t.shape)
        w, g, scale = Tensor.empty(*t.shape), Tensor.empty(*t.shape), Tensor.empty(1)
        optimizer.update(ops, Learned(t.role, w, g, scale, state, scalars))
    return ops.flops


def outside_windows(model: ModelPlan) -> int:
    """FLOPs of attention in a row that plain operations spend on keys outside windows."""
    found = 0
    for stack in model.stacks:
        context = stack.context or model.context
        for kind in stack.order:
            attention, mask = stack.blocks[kind].attention, stack.blocks[kind].mask
            width = attention.heads * (attention.head_dim or model.d_model // attention.heads)
            found += 4 * context * width * (context - mask.keys(context))
    return found


MOST_LENGTHS = 8
"""Lengths of a phase's rows of which a graph is made each: a warmup over hundreds would take minutes."""


@settings(max_examples=10)
@given(data=specs())
def test_products_are_those_of_the_graph(data: dict[str, Any]) -> None:
    plan = compile_spec(Spec.model_validate_json(json.dumps(data)))
    for planned in plan.phases:
        phase = planned.phase
        if phase.adapter is not None:
            continue  # some products more, and none for the gradients of the frozen base
        model = planned.model
        graph = found, pooled, compared = counted(model, phase)
        updated = counted_update(model, phase.optimizer)
        forward = found - phase.micro_batch_size * outside_windows(model)
        assert forward_cost(model, phase).products == forward
        assert model.flops_per_token * phase.micro_batch_size * model.context == forward - pooled - compared
        # Each product has two gradients, by either side, of as many operations; what stands for a document has none.
        rows = phase.micro_batch_size * model.context
        again = rows * layer_flops(model) if phase.activation_checkpointing else 0
        assert pass_cost(model, phase).products == 3 * forward - pooled + again
        assert update_cost(model, phase).products == updated
        once = 3 * forward - pooled + again + phase.asks_again * forward
        step = once * phase.gradient_accumulation_steps
        step += updated
        assert step_cost(model, phase).products == step
        if planned.flops is None or planned.steps is None:
            continue
        lengths = {phase.row_lengths(model.context).at(n, planned.steps) for n in range(planned.steps)}
        if len(lengths) > MOST_LENGTHS:
            continue
        whole = counted_whole(model, phase, planned.others, planned.steps, graph, updated)
        if (critic := critic_of(phase, planned.others)) is not None:  # which graphs of its own train
            of_critic = counted(*critic), counted_update(critic[0], critic[1].optimizer)
            whole += counted_whole(*critic, {}, planned.steps, *of_critic)
        exact = not phase.batch_size_warmup.percent and len(lengths) == 1
        assert planned.flops == (whole if exact else pytest.approx(whole, rel=1e-12))


def counted_whole(
    model: ModelPlan, phase: Any, others: Any, steps: int, graph: tuple[int, int, int], updated: int
) -> float:
    """FLOPs of all steps of a model's phase, by graphs, with the passes of the models beside it; `graph` is `counted`
    of the phase, and `updated` what its optimizer takes."""
    rows = phase.micro_batch_size * model.context
    found, pooled, _ = graph
    forward = found - phase.micro_batch_size * outside_windows(model)
    again = rows * layer_flops(model) if phase.activation_checkpointing else 0
    each = 3 * forward - pooled + again + phase.asks_again * forward
    each += cost_beside(phase, model.context, others).products
    passes = [phase.batches.at(n, steps) for n in range(steps)]
    whole = sum(passes) * each + steps * updated
    lengths = [phase.row_lengths(model.context).at(n, steps) for n in range(steps)]
    for length in {*lengths} - {model.context}:
        short, of_short = shortened(model, phase, length)
        found, _, _ = counted(short, of_short)
        less = 3 * (forward - found + of_short.micro_batch_size * outside_windows(short))
        less += rows * (layer_flops(model) - layer_flops(short)) * phase.activation_checkpointing
        less += cost_beside(phase, model.context, others).products
        less -= cost_beside(of_short, length, others).products
        whole -= less * sum(n for n, at in zip(passes, lengths, strict=True) if at == length)
    return float(whole)


def test_six_times_parameters_times_tokens() -> None:
    """6ND (Kaplan et al. 2020, section 2.1) leaves out the scores, and counts positions and norms as products."""
    plan = compile_spec(load_spec(tiny.ROOT / "specs/llama2-7b.yaml").spec)
    (phase,) = plan.phases
    assert phase.flops is not None and phase.tokens is not None
    attention = 12 * plan.model.layers * plan.model.context * plan.model.d_model * phase.tokens
    embedding = 6 * plan.model.vocab * plan.model.d_model * phase.tokens
    six = 6 * plan.model.parameters * phase.tokens - embedding
    assert phase.flops == pytest.approx(six + attention, rel=1e-4)


REALISTIC = {
    "llama-like": ["phases.chat.optimizer={kind: muon}"],
    "gpt-like": [
        "model.attention={kind: multi_head, heads: 6, bias: true}",
        "model.position={kind: learned}",
        "model.mlp={kind: gelu, bias: true}",
        "model.norm={kind: layernorm}",
        "model.dropout={embedding: 0.1, attention: 0.1, residual: 0.1, mlp: 0.1}",
        "phases.chat.document_mask=false",
    ],
    "as in 2017": [
        "model.norm={kind: layernorm}",
        "model.residual=post",
        "model.position={kind: sinusoidal}",
        "model.mlp={kind: relu}",
        "model.heads.lm.tied=false",
        "phases.chat.optimizer={kind: adam}",
    ],
    "with penalties": [
        "model.position={kind: alibi}",
        "model.mlp={kind: geglu}",
        "phases.chat.micro_batch_size=1",
        "phases.chat.optimizer={kind: sgd, momentum: 0.9}",
        "phases.chat.gradient_accumulation_steps=2",
    ],
    "with experts": [
        "model.mlp={kind: mixture_of_experts, experts: 4, top_k: 2, expert: {kind: swiglu, d_ff: 96}, "
        "shared: {kind: swiglu, d_ff: 64}, shared_gate: true}",
    ],
    "bert-like": [
        "model.embedding={scale: sqrt_d_model, norm: {kind: layernorm}, token_types: 2}",
        "model.norm={kind: rmsnorm, unit_offset: true}",
        "model.position={kind: learned}",
        "model.residual=pre_mlp",
        "model.mlp={kind: gelu, approximate: none}",
    ],
    "capped": ["model.heads.lm={kind: lm, softcap: 30, transform: {approximate: none, norm: {kind: layernorm}}}"],
    "relu2": ["model.mlp={kind: relu2, d_ff: 2048}"],
    "reglu": ["model.mlp={kind: reglu, d_ff: 2048}"],
    "geglu": ["model.mlp={kind: geglu, approximate: none, d_ff: 2048}"],
    "smoothed": ["model.mlp={kind: silu}", "phases.chat.objective={kind: cross_entropy, label_smoothing: 0.1}"],
}


def small(*overrides: str) -> Plan:
    """The quickstart's second phase alone, on a GPU that is not here, with one layer and half its context."""
    path = tiny.ROOT / "specs/quickstart.yaml"
    first = ["phases.pretrain=null", "phases.chat.from=null", "device=CUDA", "model.layers=1", "model.context=128"]
    return compile_spec(load_spec(path, [*first, *overrides]).spec)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if i < 1 else pytest.mark.nightly) for i, n in enumerate(REALISTIC)]
)
def test_totals_are_tinygrads_within_five_percent(name: str) -> None:
    plan = small(*REALISTIC[name])
    (phase,) = plan.phases
    found = exact(plan, operations=True)["chat"]
    assert step_cost(plan.model, phase.phase).total == pytest.approx(found["step operations"], rel=0.05)
    assert forward_cost(plan.model, phase.phase).total == pytest.approx(found["forward operations"], rel=0.05)
