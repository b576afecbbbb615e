"""Mixtures of experts: what tokens get, whatever the router chooses, in training and in decoding."""

from __future__ import annotations

from typing import Any

import networks
import numpy as np
import pytest
import reference
import reference_experts
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CONTEXT, EPS, NETWORKS, VOCAB, apart, drawn_tokens, drawn_weights, plan_of

from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler import walk
from llmspec.model.decoder import Decoder
from llmspec.parts.mlps.mixture_of_experts import MixtureOfExperts
from llmspec.parts.ops import Update
from llmspec.parts.updates import MuonStep

SUMMED = 400
SWIGLU = {"kind": "swiglu", "d_ff": 12}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": {"experts": 5, "top_k": 2, "expert": SWIGLU, "balance": 0.3},
    "qwen2": {"experts": 4, "top_k": 3, "normalise": False, "expert": SWIGLU, "shared": SWIGLU, "shared_gate": True},
    "deepseek": {
        "experts": 7,
        "top_k": 3,
        "expert": {"kind": "gelu", "d_ff": 10, "bias": True},
        "router": "sigmoid",
        "router_bias": True,
        "scale": 1.7,
        "shared": {"kind": "geglu", "d_ff": 8, "bias": True},
    },
    "switch": {"experts": 3, "top_k": 1, "normalise": False, "expert": {"kind": "relu", "d_ff": 12}, "balance": 0.0},
}
NETWORKS |= {
    f"mixture-{name}": plan_of(
        {
            "layers": 3 - (name == "deepseek"),
            "attention": {"heads": 2},
            "position": {"kind": "rope"},
            "mlp": {"kind": "gelu", "d_ff": 16},
            "blocks": {"dense": {}, "sparse": {"mlp": {"kind": "mixture_of_experts", **mixture}}},
            "pattern": ["dense", "sparse"] if name == "deepseek" else ["sparse", "sparse", "dense"],
        }
    )
    for name, mixture in MIXTURES.items()
}
NAMES = [f"mixture-{name}" for name in MIXTURES]


def batch(seed: int) -> networks.Arrays:
    tokens = drawn_tokens(seed)
    return {
        "tokens": tokens,
        "targets": drawn_tokens(seed + 1),
        "documents": np.zeros_like(tokens),
        "loss_weights": np.full(tokens.shape, 1 / tokens.size, np.float32),
    }


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_slopes_of_the_loss(name: str) -> None:
    """Of router, experts, shared layer and gate, the load-balancing loss included; on the CPU as in plain float64."""
    plan, weights, given_ = NETWORKS[name].model, drawn_weights(NETWORKS[name].model, 3), batch(3)
    assert plan.parameters == reference.parameters(plan)
    loss, made = networks.gradients(name, weights, given_, double=True)
    assert loss == pytest.approx(reference.loss(plan, weights, given_, 0.0), rel=1e-6)
    assert set(made) == {t.name for t in plan.tensors if not t.name.endswith("correction")}
    w, whole = reference.double(weights), np.sqrt(sum((g**2).sum() for g in made.values()))
    for tensor, g in made.items():
        if ".mlp." not in tensor:
            continue
        direction = np.random.default_rng(8).standard_normal(g.shape)
        at = lambda t, tensor=tensor, d=direction: reference.loss(plan, {**w, tensor: w[tensor] + t * d}, given_, 0.0)
        slope = (at(1e-5) - at(-1e-5)) / 2e-5
        assert (g * direction).sum() == pytest.approx(slope, rel=1e-5, abs=1e-7 * whole), tensor
    close, quick = networks.gradients(name, weights, given_)
    assert close == pytest.approx(loss, rel=SUMMED * EPS)
    for tensor, g in quick.items():
        assert np.linalg.norm(g - made[tensor]) < 2 * SUMMED * EPS * (np.linalg.norm(made[tensor]) + whole / 8), tensor


@pytest.mark.parametrize(
    ("name", "plain"), [*((name, False) for name in NAMES), ("mixture-mixtral", True), ("mixture-deepseek", True)]
)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), favour=st.floats(0, 50))
def test_no_token_is_dropped(name: str, plain: bool, seed: int, favour: float) -> None:
    """Also where the router sends nearly all tokens to one expert."""
    plan, tokens = NETWORKS[name].model, drawn_tokens(seed)
    weights = drawn_weights(plan, seed)
    for tensor in weights:
        if tensor.endswith("router.weight"):
            weights[tensor][0] *= np.float32(1 + favour)
    made = networks.logits(name, weights, tokens, plain=plain)
    assert apart(made, reference.logits(plan, weights, tokens)) < SUMMED * EPS


@pytest.mark.parametrize("favour", [0.0, 100.0])
def test_the_spread_over_experts_is_told(favour: float) -> None:
    """The loss is that of Fedus et al. 2022 in every layer, and a collapsed router is seen."""
    from llmspec.model.steps import Steps

    name = "mixture-mixtral"
    plan, weights = NETWORKS[name], drawn_weights(NETWORKS[name].model, 5)
    for tensor in weights:
        if tensor.endswith("router.weight"):  # as good as constant logits
            weights[tensor][...] = 0
            weights[tensor][1] = favour
    assert Steps(plan.phases[0], backend("CPU")).sums == ("loss", "balance", "max_expert_load", "idle_experts")
    networks.gradients(name, weights, batch(5))
    told = networks.told(name)
    reference.loss(plan.model, weights, batch(5), 0.0)
    loads = {}
    for layer, _, _, chosen in reference_experts.ROUTED:
        loads.setdefault(layer, []).append(chosen)
    counts = [np.bincount(np.concatenate(c).reshape(-1), minlength=5) for c in loads.values()]
    assert all(c.sum() == 2 * 2 * CONTEXT for c in counts)
    assert told["balance"] == pytest.approx(reference_experts.balance(), rel=1e-5)
    assert told["max_expert_load"] == pytest.approx(max(c.max() / c.mean() for c in counts), rel=1e-6)
    assert told["idle_experts"] == max((c == 0).sum() for c in counts)


@pytest.mark.parametrize("name", NAMES)
def test_decoding_gives_what_the_whole_text_gives(name: str) -> None:
    """Prompts read together and continued together are, bit for bit, those that are read alone."""
    plan, weights = NETWORKS[name].model, drawn_weights(NETWORKS[name].model, 7)
    decoder = Decoder(plan, backend("CPU"), tensors_from_numpy(**weights))
    prompts = [drawn_tokens(i, n).tolist() for i, n in enumerate((5, 3, 7, 1))]
    cache, first = decoder.prefill(prompts)
    steps = [decoder.step(cache, [(3 * i + r) % VOCAB for r in range(4)]) for i in range(4)]
    w = reference.double(weights)
    for row, prompt in enumerate(prompts):
        cache, own = decoder.prefill([prompt])
        alone = [own[0], *(decoder.step(cache, [(3 * i + row) % VOCAB])[0] for i in range(4))]
        together = [first[row], *(s[row] for s in steps)]
        assert np.array(alone).tobytes() == np.array(together).tobytes(), row
        text = prompt + [(3 * i + row) % VOCAB for i in range(4)]
        exact = reference.row_logits(plan, w, np.array(text))[len(prompt) - 1 :]
        assert apart(np.array(alone), exact) < SUMMED * EPS


def test_a_token_uses_some_of_the_weights() -> None:
    plan = NETWORKS["mixture-qwen2"].model
    sparse, width = 2, plan.d_model
    idle = sparse * 1 * 3 * 12 * width  # one of four experts, in each of two layers
    assert walk.active_parameters(plan) == plan.parameters - idle
    dense = NETWORKS["mixture-deepseek"].model
    part = next(p.part for p in walk.walk(dense) if isinstance(p.part, MixtureOfExperts))
    assert part.flops(dense.dims) == 2 * (7 * width + 3 * 2 * 10 * width + 3 * 8 * width)


@pytest.mark.parametrize("plain", [True, False])
def test_muon_takes_each_expert_by_itself(plain: bool) -> None:
    """A stack's step is that of each of its matrices."""
    from tinygrad import Tensor

    low = backend("CPU", plain)
    rng = np.random.default_rng(4)
    w, m, g = (rng.standard_normal((3, 9, 6)).astype(np.float32) for _ in range(3))
    rule = MuonStep(momentum=0.9, nesterov=True, decay=0.1, iterations=5)

    def stepped(*of: np.ndarray) -> np.ndarray:
        held = tensors_from_numpy(w=of[0], m=of[1], g=of[2], s=np.array([0.02], np.float32), c=np.ones(1, np.float32))
        ops = low.ops(low.inputs)
        ops.update(Update(rule, (held["w"], held["m"]), held["g"], held["c"], held["s"]))
        Tensor.realize(*ops.written)
        return np.array(networks.memory(held["w"]))

    apart_ = np.stack([stepped(w[e], m[e], g[e]) for e in range(3)])
    np.testing.assert_allclose(stepped(w, m, g), apart_, rtol=0, atol=0 if not plain else 1e-5)
    assert np.abs(apart_ - w).max() > 1e-3
