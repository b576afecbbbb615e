"""Small networks that together hold every entry of the tables, and their captured graphs, each made once a process.

Shapes stay the same, so that the tests of all files share their compiled kernels.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import reference

from llmspec.compiler import compile_spec, walk
from llmspec.compiler.draft import Draft
from llmspec.compiler.masks import range_inputs
from llmspec.compiler.network import build_table, check_parts, resolve_parts
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.compiler.updates import copied, state_shapes
from llmspec.model.device import open_device
from llmspec.parts import attentions, mlps, norms, positions
from llmspec.parts.residual import FORMS
from llmspec.parts.tokenizers.char import Char
from llmspec.spec.check import Sections
from llmspec.spec.schema import ModelSpec, Spec

open_device("CPU")

from tinygrad import Context  # noqa: E402  (the compiler comes first)
from tinygrad.dtype import _to_np_dtype as to_numpy  # noqa: E402  (the compiler comes first)

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy  # noqa: E402
from llmspec.model.steps import Steps  # noqa: E402
from llmspec.model.transformer import Transformer, block_context  # noqa: E402

EPS = 2.0**-24
ROWS, CONTEXT, VOCAB = 2, 12, 24
Arrays = dict[str, np.ndarray]

_CHANGED = {"theta": 50.0, "buckets": 6, "max_distance": 9, "offset": 2, "eps": 0.02, "kv_heads": 2, "heads": 4}
"""Settings that tests give a part that has them: none is a default, so that one that is ignored is noticed."""


def part(kind: str, table: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """A part of this kind, with those of the settings that it has."""
    changed = {**_CHANGED, **given}
    return {"kind": kind, **{k: v for k, v in changed.items() if k in table[kind].model_fields}}


def plan_of(model: dict[str, Any], **phase: Any) -> Plan:
    """The plan of a spec with this model and one phase with these settings."""
    spec = {
        "name": "test",
        "device": "CPU",
        "model": {"context": CONTEXT, "d_model": 16, "layers": 2, **model},
        "tokenizer": {"kind": "char", "vocab": VOCAB},
        "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
        "phases": {"p": {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "4 steps", **phase}},
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


def model_of(model: dict[str, Any]) -> ModelPlan:
    """The plan of a model alone, whatever could be trained with it."""
    spec = ModelSpec.model_validate_json(json.dumps({"context": CONTEXT, "d_model": 16, "layers": 2, **model}))
    sections = Sections(model=spec, tokenizer=Char(vocab=VOCAB))
    draft = build_table(check_parts(resolve_parts(Draft(sections))))
    assert draft.network is not None, draft.problems
    return draft.network


ATTENTION: tuple[dict[str, Any], ...] = (
    {},
    {"head_dim": 6, "scale": 0.3, "sinks": True},
    {"qk_norm": {"kind": "rmsnorm", "eps": 0.02}, "softcap": 1.5},
    {"qk_norm": {"kind": "layernorm", "eps": 0.02}, "qk_norm_over": "all_heads"},
)
HEAD: tuple[dict[str, Any], ...] = (
    {},
    {"bias": True, "softcap": 1.5},
    {"bias": True, "transform": {"approximate": "none", "norm": {"kind": "layernorm", "eps": 0.02}}},
    {"scale": 0.3, "transform": {"activation": "silu", "bias": False}},
    {"scale": 3.0, "softcap": 4.0},
)
ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "partial": (
        "grouped_query",
        {
            "fraction": 0.67,
            "interleaved": True,
            "scaling": {"kind": "yarn", "factor": 4.0, "original_context": 40, "beta_fast": 6.0},
        },
    ),
    "dynamic": ("multi_query", {"scaling": {"kind": "dynamic", "factor": 2.0, "original_context": 5}}),
}
"""More rotary positions, each with a kind of attention."""
EMBEDDING: tuple[dict[str, Any], ...] = (
    {},
    {"scale": "sqrt_d_model"},
    {"scale": 0.7, "norm": {"kind": "layernorm", "eps": 0.02}, "token_types": 2},
    {"norm": {"kind": "rmsnorm", "eps": 0.02, "unit_offset": True}},
)


def _covering() -> dict[str, Plan]:
    """Every position with every attention; the other tables' entries take turns."""
    normed = list(itertools.product(FORMS, norms.TABLE))
    pairs = [(p, a, "", {}) for p, a in itertools.product(positions.TABLE, attentions.TABLE)]
    pairs += [("rope", attention, name, given) for name, (attention, given) in ROPES.items()]
    out = {}
    for i, (position, attention, variant, given_too) in enumerate(pairs):
        mlp, (residual, norm) = list(mlps.TABLE)[i % len(mlps.TABLE)], normed[i % len(normed)]
        wide = {"head_dim": 6} if variant == "partial" else {}
        local = {"mask": {"kind": "causal", "window": 4}, "mlp": part("gelu", mlps.TABLE, d_ff=16)}
        tied, biased = i // 2 % 2 == 0, i // 3 % 2 == 0
        model = {
            "embedding": EMBEDDING[i % 4],
            "position": {**part(position, positions.TABLE), **given_too},
            "attention": {
                **part(attention, attentions.TABLE, bias=biased, output_bias=i % 3 > 0),
                **ATTENTION[i % 4],
                **wide,
            },
            "mask": {"kind": "causal", "window": 7 if i % 3 == 1 else None},
            "mlp": part(mlp, mlps.TABLE, d_ff=24, bias=biased, approximate="none" if tied else "tanh"),
            "norm": part(norm, norms.TABLE, bias=not biased, unit_offset=biased),
            "residual": residual,
            "heads": {"lm": {"kind": "lm", "tied": tied, **HEAD[i % 5]}},
            **({"blocks": {"local": local, "global": {}}, "pattern": ["local", "global"]} if i % 4 == 2 else {}),
        }
        given = "-pattern" * (i % 4 == 2) + "-tied" * tied + "-bias" * biased + f"-{variant}" * bool(variant)
        name = f"{position}-{attention}-{mlp}-{norm}-{residual}{given}"
        out[name] = plan_of(model, objective={"kind": "cross_entropy", "label_smoothing": i % 2 * 0.1})
    return out


def traits(name: str) -> set[str]:
    """What a network shows that another may not."""
    position, attention, mlp, norm, residual, *rest = name.split("-")
    given = {f"{key} {key in rest}" for key in ("tied", "bias", "pattern")} | {v for v in ROPES if v in rest}
    return {position, attention, mlp, norm, residual, *given}


def _smallest_cover(names: list[str]) -> list[str]:
    """A few of the networks that still show every trait."""
    missing, chosen = set().union(*map(traits, names)), []
    while missing:
        chosen.append(max(names, key=lambda n: len(traits(n) & missing)))
        missing -= traits(chosen[-1])
    return chosen


NETWORKS = _covering()
PAIRS = list(NETWORKS)
"""Every position with every attention."""
FEW = _smallest_cover(PAIRS)
"""Every entry of every table at least once."""


UNBALANCED = "experts-unbalanced"
"""A mixture of experts whose loss is that of the objective alone."""
NETWORKS[UNBALANCED] = plan_of(
    {
        "attention": {"kind": "multi_head", "heads": 2},
        "mlp": {"kind": "mixture_of_experts", "experts": 5, "expert": {"kind": "swiglu", "d_ff": 12}, "balance": 0.0},
    }
)


def adding(names: list[str]) -> list[str]:
    """Those whose loss is a sum over documents: one that balances experts looks at all tokens of a batch together."""
    return [name for name in names if not walk.adds_losses(NETWORKS[name].model.decoder)] + [UNBALANCED]


def routes(name: str) -> bool:
    """Whether tokens share experts, whose products' last bits hang on which ones do."""
    return any(block.mlp.routes for block in NETWORKS[name].model.decoder.blocks)


def continued(names: list[str]) -> list[str]:
    """Those whose answers, token by token, are those of the whole text: of no angles that follow its length."""
    return [
        name
        for name in names
        if not any(p.follows_length(dims) for p, dims, _ in walk.positions(NETWORKS[name].model).values())
    ]


def states_at_first(plan: Plan, weights: Arrays) -> Arrays:
    """The states of a plan's first phase at step 0, which some weights were drawn for."""
    phase = plan.phases[0]
    same, found = copied(phase.phase), dict[str, np.ndarray]()
    for key, shape in state_shapes(phase.model, phase.phase).items():
        name, _, kind = key.rpartition(":")
        found[key] = weights[name].copy() if kind in same else np.zeros(shape, np.float32)
    return found


def drawn_weights(plan: ModelPlan, seed: int) -> Arrays:
    """Weights of every role away from zero and one, so that none of them can be left out unnoticed."""
    out = {}
    for i, t in enumerate(plan.tensors):
        n = np.random.default_rng([seed, i]).standard_normal(t.shape)
        scale = {"norm": 0.2, "bias": 0.3, "embedding": 0.7}.get(t.role, 1 / np.sqrt(t.shape[-1]))
        out[t.name] = (n * scale + (t.role == "norm")).astype(np.float32)
    return out


def drawn_tokens(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, 99]).integers(0, VOCAB, shape or (ROWS, CONTEXT)).astype(np.int32)


def seen_by(spans: np.ndarray, keys: int) -> np.ndarray:
    """What spans (B, T, 2) let each query see, as a relation: bool (B, T, keys)."""
    place = np.arange(keys)
    return (place >= spans[..., :1]) & (place < spans[..., 1:])


class Inputs(dict[str, Any]):
    """Realized tensors of one graph, made once; what is put into them is written straight into their memory."""

    def put(self, arrays: Mapping[str, np.ndarray]) -> Inputs:
        if not self:
            self.update(tensors_from_numpy(**arrays))
        for name, array in arrays.items():
            memory(self[name])[...] = array
        return self


def memory(tensor: Any) -> np.ndarray:
    """A realized tensor's own numbers, not a copy: reading and writing past the scheduler saves most of a test."""
    view = tensor.uop.base.buffer.as_memoryview(force_zero_copy=True)
    return np.frombuffer(view, to_numpy(tensor.dtype)).reshape(tensor.shape)


def without_unrolling(call: Any) -> Any:
    """A function whose graphs of plain operations are looked at for their numbers alone: unrolled, their kernels take
    far longer to make than to run."""

    @functools.wraps(call)
    def plainly(*given: Any, **named: Any) -> Any:
        with Context(NOOPT=1):
            return call(*given, **named)

    return plainly


class Graph:
    """One captured function of a network with its inputs."""

    def __init__(self, plan: ModelPlan, plain: bool, call: Any, names: tuple[str, ...] = ()) -> None:
        self.names, self.told = names, dict[str, float]()
        self.handles, self.call = backend("CPU", plain).inputs, without_unrolling(call) if plain else call
        self.weights, self.sums, self.batch = Inputs(), Inputs(), Inputs()
        self._arrays, self._tables = Transformer(plan).tables(), Inputs()

    def tables(self, real: Any = np.float32) -> Inputs:
        return self._tables.put({n: v.astype(real) for n, v in self._arrays.items()})


@functools.cache
def _logits(name: str, plain: bool) -> Graph:
    model, low = Transformer(NETWORKS[name].model), backend("CPU", plain)
    # Where tokens share experts, training sums in an order that hangs on all of them; decoding does not.
    shared = routes(name)

    def logits(weights: Any, tables: Any, inputs: Any) -> Any:
        ops = low.ops(inputs, by_sequence=shared)
        return model.logits(ops, {**weights, **tables}, inputs, block_context(inputs)).realize()

    return Graph(model.plan, plain, low.jit(logits))


def logits(
    name: str, weights: Arrays, tokens: np.ndarray, documents: np.ndarray | None = None, *, plain: bool = False
) -> np.ndarray:
    """Logits (ROWS, CONTEXT, VOCAB) by the network's graph, the same graph at every call."""
    graph = _logits(name, plain)
    documents = np.zeros_like(tokens) if documents is None else documents
    batch = graph.batch.put({"tokens": tokens, **apart_by(name, documents)})
    return memory(graph.call(graph.weights.put(weights), graph.tables(), {**batch, **graph.handles})).copy()


def apart_by(name: str, documents: np.ndarray) -> Arrays:
    """What a graph reads to keep documents (B, T) apart: the keys that each query sees, and restarted positions."""
    positions = np.stack([reference.restarted(row) for row in documents]).astype(np.int32)
    return {**range_inputs(NETWORKS[name].model, True, documents.shape[1], documents), "positions": positions}


@functools.cache
def _gradients(name: str, plain: bool) -> Graph:
    plan = NETWORKS[name]
    steps = Steps(plan.phases[0], backend("CPU", plain))
    return Graph(plan.model, plain, steps.accumulate, steps.sums)


def gradients(
    name: str, weights: Arrays, batch: Arrays, *, double: bool = False, only: Collection[str] | None = None
) -> tuple[float, Arrays]:
    """Loss and gradients of a batch (tokens, targets, loss_weights, documents; filled, or all tokens count), by the
    graph that trains: of all weights, or of `only` those that it trains.

    On the CPU's backend in float32, or with `double` on the plain one in float64.
    """
    graph, real = _gradients(name, double), np.float64 if double else np.float32
    w = graph.weights.put({n: v.astype(real) for n, v in weights.items()})
    only = {t.name for t in NETWORKS[name].phases[0].model.trained} if only is None else only
    sums = graph.sums.put({n: np.full(v.shape, 7, real) for n, v in weights.items() if n in only})
    given = {k: v for k, v in batch.items() if k not in ("documents", "filled")}
    if walk.adds_losses(NETWORKS[name].model.decoder):
        given["filled"] = batch.get("filled", np.ones(given["tokens"].shape, np.int32))
    arrays = {**given, **apart_by(name, batch["documents"]), "keep": np.zeros(1, real)}
    inputs = graph.batch.put({**arrays, "loss_weights": batch["loss_weights"].astype(real)})
    found = graph.call(w, sums, graph.tables(real), {**inputs, **graph.handles})
    graph.told = named = dict(zip(graph.names, (float(memory(one)) for one in found), strict=True))
    return sum(named[name] for name in ("loss", "balance") if name in named), {
        n: memory(t).copy() for n, t in sums.items()
    }


def told(name: str) -> dict[str, float]:
    """What the last call of `gradients` told beside them, on the CPU's backend."""
    return _gradients(name, False).told


def smoothing(name: str) -> float:
    return NETWORKS[name].phases[0].phase.objective.label_smoothing


def apart(made: np.ndarray, exact: np.ndarray) -> float:
    """Norm of the difference, relative to the norm of what is exact."""
    return float(np.linalg.norm(made.astype(np.float64) - exact) / (np.linalg.norm(exact) + 1e-300))
