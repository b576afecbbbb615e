"""Layers that differ, masks, residual forms and heads: the plan says them once, and the graph does what it says."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import networks
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from networks import CONTEXT, ROWS, VOCAB, apart, drawn_tokens, drawn_weights, memory, plan_of
from pydantic import ValidationError

from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler import walk
from llmspec.compiler.mask_proof import blocks, examined
from llmspec.compiler.masks import Relation, decoding_ranges, range_inputs, unsupervised_prefix
from llmspec.compiler.memory import decoding_bytes
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.compiler.plan_settings import period
from llmspec.core.problems import SpecError
from llmspec.model.completeness import assert_complete
from llmspec.model.mask_check import graph_check
from llmspec.model.transformer import Transformer, Weights, block_context
from llmspec.parts import heads, mlps
from llmspec.parts.base import Dims
from llmspec.parts.masks import TABLE as MASKS
from llmspec.parts.masks import Mask
from llmspec.parts.mlps.gelu import GELU
from llmspec.parts.ops import Layer
from llmspec.parts.residual import FORMS
from llmspec.training.trainer import Trainer

BASE: dict[str, Any] = {"attention": {"heads": 2}, "mlp": {"kind": "gelu", "d_ff": 24}}
LAYERED: dict[str, Any] = {
    **BASE,
    "layers": 3,
    "blocks": {
        "local": {
            "attention": {"heads": 4, "kv_heads": 2, "head_dim": 6},
            "mask": {"window": 3},
            "position": {"kind": "rope", "theta": 30.0},
            "norm": {"kind": "layernorm"},
            "residual": "sandwich",
        },
        "global": {"mlp": {"kind": "swiglu", "d_ff": 16}},
    },
    "pattern": ["local", "local", "global"],
}
MASKED = [kind(window=w) for kind in MASKS.values() for w in (None, 1, 3, 100)]


def hidden(plan: ModelPlan, plain: bool, inputs: dict[str, np.ndarray], head: str | None = None) -> np.ndarray:
    """Hidden states by the plan's graph, or outputs of a head."""
    model, low, weights = Transformer(plan), backend("CPU", plain), drawn_weights(plan, 3)
    tensors = {**tensors_from_numpy(**weights), **tensors_from_numpy(**model.tables())}
    read, ops = tensors_from_numpy(**inputs), low.ops(low.inputs)
    context = block_context(read)
    out = model.hidden(ops, tensors, read, context)
    out = out if head is None else model.head(ops, tensors, out, head, context.filled)
    return memory(out.contiguous().realize()).copy()


# -- the plan --------------------------------------------------------------------------------------------------------


def test_equal_layers_are_one_block_and_different_ones_are_stored_once() -> None:
    (stack,) = plan_of({**BASE, "layers": 5}).model.stacks
    assert len(stack.blocks) == 1 and stack.order == (0,) * 5
    model = plan_of({**LAYERED, "layers": 7}).model
    (stack,) = model.stacks
    assert [b.name for b in stack.blocks] == ["local", "global"] and stack.order == (0, 0, 1, 0, 0, 1, 0)
    shapes = {t.name: t.shape for t in model.tensors}
    assert [shapes[f"layers.{i}.attention.q_proj.weight"] for i in (1, 2)] == [(24, 16), (16, 16)]
    assert "layers.0.attention_post_norm.bias" in shapes and "layers.2.attention_post_norm.weight" not in shapes
    assert [d.head_dim for d in walk.layer_dims(model)] == [6, 6, 8, 6, 6, 8, 6]
    assert_complete(Transformer(model))


def test_the_folds_agree_with_the_tables_they_fold() -> None:
    for plan in (*networks.NETWORKS.values(), plan_of(LAYERED)):
        model = plan.model
        counted = sum(p.copies * int(np.prod(t.shape)) for p in walk.walk(model) for t in p.part.tensors(p.dims))
        assert counted == model.parameters == reference.parameters(model)
        names = [name for name, _ in walk.tensor_specs(model)]
        assert names == [t.name for t in model.tensors] and len(set(names)) == len(names)


def test_a_plan_of_blocks_is_written_as_a_spec_that_makes_it() -> None:
    plan = plan_of(LAYERED)
    settings_of_it = plan.settings()["model"]
    assert settings_of_it["pattern"] == ["local", "local", "global"]
    assert plan_of(settings_of_it).model == plan.model
    assert Plan.parse(plan.model_dump_json(by_alias=True)) == plan


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_a_pattern_is_the_shortest_that_repeats(names: list[str]) -> None:
    found = period(names)
    assert [found[i % len(found)] for i in range(len(names))] == names
    assert all([names[i % n] for i in range(len(names))] != names for n in range(1, len(found)))


@pytest.mark.parametrize(
    ("model", "path", "said"),
    [
        ({"blocks": {"a": {}}}, ("model", "blocks"), "no `pattern:` says"),
        ({"pattern": ["a"]}, ("model", "pattern", 0), "no block is called `a`"),
        ({"blocks": {"local": {}}, "pattern": ["locla"]}, ("model", "pattern", 0), "no block is called `locla`"),
        ({"blocks": {"a": {}, "b": {}}, "pattern": ["a"]}, ("model", "blocks", "b"), "no layer is a `b`"),
        ({"blocks": {"a": {"position": {"kind": "learned"}}}, "pattern": ["a"]},
         ("model", "blocks", "a", "position", "kind"), "is added to the embedding"),
        ({"blocks": {"a": {"attention": {"heads": 3}}}, "pattern": ["a"]},
         ("model", "blocks", "a", "attention", "heads"), "3 heads do not divide"),
        ({"mask": {"kind": "bidirectional"}}, ("phases", "p", "objective"), "lets every token see its own next one"),
        ({"heads": {"score": {"kind": "scalar"}}}, ("phases", "p", "objective"), "no head `lm`"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_its_place(model: dict[str, Any], path: tuple[Any, ...], said: str) -> None:
    with pytest.raises(SpecError) as refused:
        plan_of({**BASE, **model})
    assert [p.path for p in refused.value.problems] == [path], refused.value
    assert said in refused.value.problems[0].message and refused.value.problems[0].hint


def test_head_dim_frees_heads_from_the_width() -> None:
    model = plan_of({**BASE, "attention": {"heads": 3, "head_dim": 10}}).model
    assert next(t.shape for t in model.tensors if t.name.endswith("o_proj.weight")) == (16, 30)
    with pytest.raises(SpecError, match="3 heads do not divide d_model 16"):
        plan_of({**BASE, "attention": {"heads": 3}})


# -- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKED, ids=lambda m: m.name)
@pytest.mark.parametrize("documents", [False, True])
def test_every_mask_is_what_it_says(mask: Mask, documents: bool) -> None:
    wrong, evidence = examined(Relation(mask, documents), Relation.allows)
    assert not wrong, wrong
    assert mask.window is None or f"distances about {mask.window}" in evidence


@pytest.mark.parametrize("mask", MASKED, ids=lambda m: m.name)
def test_a_relation_of_another_mask_is_caught(mask: Mask) -> None:
    for other in MASKED:
        lie = lambda self, *given, other=other: Relation(other, self.documents).allows(*given)
        pairs = [
            (q, k, docs, prefix)
            for docs, _, prefix in blocks(Relation(mask))
            for q in range(len(docs))
            for k in range(len(docs))
        ]
        differ = any(mask.allows(q, k, k in prefix) != other.allows(q, k, k in prefix) for q, k, _, prefix in pairs)
        assert bool(examined(Relation(mask), lie)[0]) == (differ or mask.window != other.window)


@given(
    st.sampled_from(MASKED),
    st.booleans(),
    hnp.arrays(np.int32, (2, 9), elements=st.integers(0, 1)),
    hnp.arrays(np.int32, (2, 9), elements=st.integers(0, 1)),
    st.integers(1, 9),
)
def test_ranges_are_the_relation(mask: Mask, apart_: bool, steps: np.ndarray, learned: np.ndarray, filled: int) -> None:
    """Padding, prefixes and documents included: each query sees exactly the keys of its range."""
    docs, place = np.cumsum(steps, axis=1).astype(np.int32), np.arange(9)
    own = docs if apart_ else np.zeros_like(docs)
    prefix = unsupervised_prefix(own, learned.astype(np.float32))
    for row in range(2):  # a prefix is what a document begins with, and it ends before what is learned
        for d in set(own[row]):
            at = np.flatnonzero(own[row] == d)
            first = next((i for i, p in enumerate(at) if learned[row, p]), len(at) - 1)
            assert list(prefix[row, at]) == [i <= first for i in range(len(at))]
    found = Relation(mask, apart_).ranges(9, docs, [filled, 9], prefix)
    relation = Relation(mask, apart_).allows(
        place[:, None], place[None], docs[:, :, None], docs[:, None], prefix[:, None]
    )
    wanted = np.broadcast_to(relation, (2, 9, 9)).copy()
    if not mask.causal:
        wanted[0, :filled, filled:] = False
    seen = np.broadcast_to(networks.seen_by(found, 9), wanted.shape)
    rows = place < filled
    assert (seen[0][rows] == wanted[0][rows]).all() and (seen[1] == wanted[1]).all()


@pytest.mark.parametrize("mask", [m for m in MASKED if m.causal or m.has_prefix], ids=lambda m: m.name)
def test_decoding_sees_what_training_saw(mask: Mask) -> None:
    """A token that is drawn after its prompt sees the keys that it would have seen as the last of a block."""
    model = plan_of({**BASE, "mask": mask.model_dump()}).model
    for place in range(1, CONTEXT):
        whole = Relation(mask).ranges(place + 1, prefix_BT=np.arange(place + 1)[None] < place)
        assert (decoding_ranges(model, [place])[f"ranges:{mask.name}"][0, 0] == whole[0, -1]).all()


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("window", [None, 4])
def test_hidden_states_are_those_of_the_formulas(kind: str, plain: bool, window: int | None) -> None:
    plan = networks.model_of({**BASE, "mask": {"kind": kind, "window": window}})
    tokens = drawn_tokens(5)
    prefix = np.broadcast_to(np.arange(CONTEXT) < 4, (ROWS, CONTEXT))
    arrays = {"tokens": tokens, **range_inputs(plan, False, CONTEXT, None, [CONTEXT] * ROWS, prefix)}
    made, w = hidden(plan, plain, arrays), reference.double(drawn_weights(plan, 3))
    exact = np.stack([reference.row_hidden(plan, w, row, None, prefix[0]) for row in tokens])
    assert apart(made, exact) < 1e-5


@pytest.mark.parametrize("kind", MASKS)
def test_padding_is_never_seen(kind: str) -> None:
    """Other padding, of any length, changes no bit of what a text's own tokens become."""
    plan = networks.model_of({**BASE, "mask": {"kind": kind, "window": 5}})
    tokens, filled = drawn_tokens(6), [7, CONTEXT]
    arrays = {"tokens": tokens, **range_inputs(plan, False, CONTEXT, None, filled)}
    other = {**arrays, "tokens": tokens.copy()}
    other["tokens"][0, 7:] = (other["tokens"][0, 7:] + 1) % VOCAB
    one, two = hidden(plan, False, arrays), hidden(plan, False, other)
    assert (one[0, :7] == two[0, :7]).all() and (one[1] == two[1]).all() and (one[0, 7:] != two[0, 7:]).any()


@pytest.mark.parametrize("model", [LAYERED, {**BASE, "mask": {"kind": "prefix"}}, {**BASE, "mask": {"window": 3}}])
def test_the_built_graph_looks_where_blocks_say(model: dict[str, Any]) -> None:
    proof = graph_check(plan_of(model))
    assert proof.holds, proof


# -- embeddings ------------------------------------------------------------------------------------------------------

TYPED: dict[str, Any] = {"scale": 1.5, "token_types": 3, "norm": {"kind": "layernorm", "eps": 0.02}}


@pytest.mark.parametrize("plain", [False, True])
def test_token_types_are_added_where_an_input_gives_them(plain: bool) -> None:
    """And every token is of the first type where none does."""
    plan = networks.model_of({**BASE, "embedding": TYPED, "position": {"kind": "learned"}})
    assert_complete(Transformer(plan))
    tokens, types = drawn_tokens(5), drawn_tokens(6) % 3
    arrays = {"tokens": tokens, **range_inputs(plan, False, CONTEXT)}
    w, own = reference.double(drawn_weights(plan, 3)), {"token_types": types}
    exact = [np.stack([reference.row_hidden(plan, w, r, types=t) for r, t in zip(tokens, some, strict=True)])
             for some in (types, np.zeros_like(types))]  # fmt: skip
    assert apart(hidden(plan, plain, {**arrays, **own}), exact[0]) < 1e-5
    assert apart(hidden(plan, plain, arrays), exact[1]) < 1e-5 < apart(exact[0], exact[1])


@pytest.mark.parametrize("plain", [False, True])
def test_gradients_reach_each_token_type(plain: bool) -> None:
    plan, low = networks.model_of({**BASE, "embedding": {**TYPED, "norm": None}}), backend("CPU", plain)
    weights = tensors_from_numpy(**{n: v for n, v in drawn_weights(plan, 3).items() if n.startswith("embed")})
    tokens, types, pull = drawn_tokens(5), drawn_tokens(6) % 3, np.float32(np.random.default_rng(1).random((24, 16)))
    read = tensors_from_numpy(tokens=tokens, token_types=types, pull=pull)
    x = Transformer(plan).embedded(low.ops(low.inputs), Weights(weights), read, read["tokens"])
    tables = [weights["embed_tokens.weight"], weights["embed_tokens.token_types.weight"]]
    slopes = (x.reshape(24, 16) * read["pull"]).sum().gradient(*tables)
    for slope, ids, factor in zip(slopes, (tokens, types), (1.5, 1.0), strict=True):
        exact = np.zeros(slope.shape)
        np.add.at(exact, ids.reshape(-1), factor * pull.astype(np.float64))
        assert apart(memory(slope.contiguous().realize()), exact) < 1e-6


def test_a_weight_that_one_is_added_to_starts_at_zero() -> None:
    offset = {"kind": "rmsnorm", "unit_offset": True}
    attention = {**BASE["attention"], "qk_norm": offset}
    model = plan_of({**BASE, "norm": offset, "attention": attention, "embedding": {"norm": offset}}).model
    starts = {t.name: t.init.distribution for t in model.tensors if t.role == "norm"}
    assert set(starts.values()) == {"zeros"} and {"final_norm.weight", "embed_tokens.norm.weight"} <= set(starts)
    assert {t.init.distribution for t in plan_of(BASE).model.tensors if t.role == "norm"} == {"ones"}


# -- costs -----------------------------------------------------------------------------------------------------------


def test_windows_cost_less_and_every_layer_has_its_cache() -> None:
    full, near = (plan_of({**BASE, "context": 4096, "mask": {"window": w}}).model for w in (None, 256))
    saved = full.flops_per_token - near.flops_per_token
    assert saved == 2 * 4 * (4096 - 256) * 16  # two layers, products of queries and of weights, width 16
    model = plan_of(LAYERED).model
    assert decoding_bytes(model, 3) == 4 * 2 * 3 * CONTEXT * (2 * 2 * 6 + 2 * 8)


# -- heads -----------------------------------------------------------------------------------------------------------

HEADS: dict[str, dict[str, Any]] = {
    "lm": {
        "kind": "lm",
        "tied": False,
        "bias": True,
        "scale": 0.5,
        "softcap": 2.0,
        "transform": {"norm": {"kind": "rmsnorm"}},
    },
    "value": {"kind": "scalar", "bias": True},
    "grade": {"kind": "score", "pooling": "last", "mean": 3.0, "std": 2.0},
    "topic": {"kind": "classes", "classes": 5},
    "first": {"kind": "classes", "classes": 3, "pooling": "cls", "bias": False},
    "tags": {"kind": "tokens", "classes": 4},
    "read": {"kind": "classes", "classes": 3, "pooling": "cls", "pooler": True},
    "vector": {"kind": "embedding"},
    "bert": {"kind": "embedding", "pooling": "cls", "pooler": True, "normalised": False},
    "raw": {"kind": "embedding", "pooling": "last", "normalised": False},
}


def exact_head(plan: ModelPlan, name: str, w: dict[str, np.ndarray], x_TD: np.ndarray, filled: int) -> np.ndarray:
    """What a head gives of one row, by its definition."""
    head, own = plan.heads[name], x_TD[:filled]
    if head.kind == "lm":
        return reference.lm(head, w, x_TD)
    x = {"mean": own.mean(0), "cls": own[0], "last": own[-1]}[head.pooling] if hasattr(head, "pooling") else x_TD
    if getattr(head, "pooler", False):
        x = np.tanh(reference.linear(w, f"{name}_head.pooler", x))
    if head.kind == "embedding":
        return x / np.linalg.norm(x) if head.normalised else x
    return reference.linear(w, f"{name}_head", x)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("plain", [False, True])
def test_heads_are_their_formulas(name: str, plain: bool) -> None:
    plan = networks.model_of({**BASE, "mask": {"kind": "bidirectional"}, "heads": HEADS})
    assert {h["kind"] for h in HEADS.values()} == set(heads.TABLE), "every kind has a formula here"
    tokens, filled = drawn_tokens(8), np.array([7, CONTEXT])
    arrays = {"tokens": tokens, **range_inputs(plan, False, CONTEXT, None, filled)}
    arrays["filled"] = (np.arange(CONTEXT) < filled[:, None]).astype(np.int32)
    made, w = hidden(plan, plain, arrays, name), reference.double(drawn_weights(plan, 3))
    for row in range(ROWS):
        whole = reference.row_hidden(plan, w, tokens[row][: filled[row]])
        exact = exact_head(plan, name, w, whole, filled[row])
        assert apart(made[row][: len(exact)], exact) < 1e-5
    assert_complete(Transformer(plan))


@settings(max_examples=20)
@given(st.sampled_from(sorted(FORMS)), st.integers(1, 3))
def test_every_form_reads_each_of_its_tensors(form: str, layers: int) -> None:
    assert_complete(Transformer(networks.model_of({**BASE, "residual": form, "layers": layers})))


def test_a_head_without_a_number_of_classes_is_refused() -> None:
    with pytest.raises(ValidationError, match="classes"):
        heads.TABLE["classes"]()


# -- losses that parts add -------------------------------------------------------------------------------------------


class Restrained(GELU):
    """A feed-forward layer that is punished for what it is given: `weight` · mean(x²), in every layer."""

    kind: Literal["restrained"] = "restrained"  # type: ignore[assignment]
    adds_losses: ClassVar[tuple[str, ...]] = ("size",)
    weight: float = 1.0

    def build(self, dims: Dims) -> Layer:
        inner = super().build(dims)

        def forward(ops: Any, w: Any, x_BTD: Any) -> Any:
            ops.add_loss("size", self.weight * x_BTD.square().mean())
            return inner(ops, w, x_BTD)

        return forward


@pytest.mark.parametrize("passes", [1, 2])
def test_losses_that_parts_add_are_trained_and_told_apart(passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a name of their own beside the objective's loss, and the gradient is that of the sum."""
    monkeypatch.setitem(mlps.TABLE, "restrained", Restrained)

    def taken(weight: float) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        plan = plan_of(
            {**BASE, "mlp": {"kind": "restrained", "weight": weight, "d_ff": 24}},
            gradient_accumulation_steps=passes,
            optimizer={"kind": "sgd", "lr": 1.0},
            max_grad_norm=None,
            micro_batch_size=ROWS,
        )
        weights = drawn_weights(plan.model, 4)
        trainer = Trainer(plan, plan.phases[0], backend("CPU"), lambda t: weights[t.name])
        tokens = [drawn_tokens(i) for i in range(passes)]
        batches = [
            {
                "tokens": t,
                "targets": t,
                "loss_weights": np.ones(t.shape, np.float32),
                **range_inputs(plan.model, False, CONTEXT),
            }
            for t in tokens
        ]
        found = trainer.step(batches, plan.phases[0].phase.optimizer.scalars(1.0, 1), 0)
        return found.sums, {n: weights[n] - w for n, w in trainer.weight_arrays().items()}

    (none, g0), (one, g1), (two, g2) = taken(0.0), taken(1.0), taken(2.0)
    assert none["loss"] == one["loss"] and none["size"] == 0 and one["size"] > 0.1
    assert two["size"] == pytest.approx(2 * one["size"], rel=1e-5)
    first, second = (g["layers.0.mlp_norm.weight"] - g0["layers.0.mlp_norm.weight"] for g in (g1, g2))
    assert np.abs(first).max() > 1e-3 and np.allclose(second, 2 * first, rtol=1e-3, atol=1e-5)
