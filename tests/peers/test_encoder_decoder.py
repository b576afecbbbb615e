"""The encoder–decoder of Vaswani et al. 2017 is torch's: logits and gradients, texts of different lengths, padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

from networks import drawn_tokens, drawn_weights, model_of  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402  (networks opens the device)
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.compiler.masks import encoder_inputs, range_inputs  # noqa: E402
from llmspec.compiler.plan import ModelPlan  # noqa: E402
from llmspec.model.transformer import Transformer, block_context  # noqa: E402

ROWS, TOKENS, SOURCE, FILLED = 3, 7, 11, [11, 2, 6]
WIDTH, HEADS, HIDDEN = 24, 3, 40
MODEL: dict[str, Any] = {
    "d_model": WIDTH,
    "layers": 2,
    "encoder": {"layers": 3},
    "position": {"kind": "sinusoidal"},
    "attention": {"kind": "multi_head", "heads": HEADS, "bias": True},
    "mlp": {"kind": "relu", "d_ff": HIDDEN, "bias": True},
    "norm": {"kind": "layernorm"},
    "embedding": {"kind": "tokens", "scale": "sqrt_d_model"},
}


def ours(model: ModelPlan, weights: Any, arrays: Any, pull: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and the gradient of their sum, each times `pull`."""
    low, network = backend("CPU"), Transformer(model)
    inputs = {**tensors_from_numpy(**arrays, pull=pull), **low.inputs}
    held, tables = tensors_from_numpy(**weights), tensors_from_numpy(**network.tables())
    out = network.logits(low.ops(inputs), {**held, **tables}, inputs, block_context(inputs))
    made = (out * inputs["pull"]).sum().gradient(*held.values())
    return to_numpy(out.contiguous().realize()), {
        n: to_numpy(g.contiguous().realize()) for n, g in zip(held, made, strict=True)
    }


def named(model: ModelPlan, w: dict[str, Any], pre: bool) -> dict[str, Any]:
    """The weights by torch's names."""
    found = {}
    for stack in model.stacks:
        own = "" if stack.name == "decoder" else "encoder."
        crossed = [("multihead_attn", "cross_attention")] if not own else []
        for layer in range(len(stack.order)):
            at, to = f"{own}layers.{layer}", f"{stack.name}.layers.{layer}"
            for theirs, mine in [("self_attn", "attention"), *crossed]:
                for kind, tail in (("weight", "in_proj_weight"), ("bias", "in_proj_bias")):
                    found[f"{to}.{theirs}.{tail}"] = torch.cat([w[f"{at}.{mine}.{n}_proj.{kind}"] for n in "qkv"])
                    found[f"{to}.{theirs}.out_proj.{kind}"] = w[f"{at}.{mine}.o_proj.{kind}"]
            norms = ["attention_norm", *(["cross_attention_norm"] if not own else []), "mlp_norm"]
            for kind in ("weight", "bias"):
                found |= {f"{to}.norm{i}.{kind}": w[f"{at}.{name}.{kind}"] for i, name in enumerate(norms, 1)}
                found[f"{to}.linear1.{kind}"] = w[f"{at}.mlp.up_proj.{kind}"]
                found[f"{to}.linear2.{kind}"] = w[f"{at}.mlp.down_proj.{kind}"]
        if pre:
            found |= {f"{stack.name}.norm.{kind}": w[f"{own}final_norm.{kind}"] for kind in ("weight", "bias")}
    return found


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("residual", ["post", "pre"])
def test_logits_and_gradients_are_torchs(residual: str) -> None:
    model = model_of({**MODEL, "residual": residual})
    weights, rng = drawn_weights(model, 3), np.random.default_rng(4)
    tokens, source = drawn_tokens(1, ROWS, TOKENS), drawn_tokens(2, ROWS, SOURCE)
    arrays = {
        "tokens": tokens,
        "encoder_tokens": source,
        **range_inputs(model, False, TOKENS),
        **encoder_inputs(model, FILLED, SOURCE, TOKENS),
    }
    pull = rng.standard_normal((ROWS, TOKENS, model.vocab)).astype(np.float32)
    found, gradients = ours(model, weights, arrays, pull)

    w = {n: torch.tensor(v, dtype=torch.float64, requires_grad=True) for n, v in weights.items()}
    pre = residual == "pre"
    peer = torch.nn.Transformer(
        WIDTH, HEADS, 3, 2, HIDDEN, 0.0, "relu", batch_first=True, norm_first=pre, layer_norm_eps=1e-5
    ).double()
    if not pre:  # torch adds a norm after the last block, where the paper has none
        peer.encoder.norm = peer.decoder.norm = None
    table = torch.tensor(Transformer(model).tables()["position.table"], dtype=torch.float64)
    embedded = lambda ids: w["embed_tokens.weight"][torch.tensor(ids).long()] * WIDTH**0.5 + table[: ids.shape[1]]
    hidden_from = torch.arange(SOURCE)[None] >= torch.tensor(FILLED)[:, None]
    given = (embedded(source), embedded(tokens))
    seen = {
        "tgt_mask": torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1),
        "src_key_padding_mask": hidden_from,
        "memory_key_padding_mask": hidden_from,
    }
    hidden = torch.func.functional_call(peer, named(model, w, pre), given, seen)
    logits = hidden @ w["embed_tokens.weight"].T
    (logits * torch.tensor(pull, dtype=torch.float64)).sum().backward()
    assert np.abs(found - logits.detach().numpy()).max() <= 2e-4
    least = 1e-6 * max(float(t.grad.abs().max()) for t in w.values())
    for name, tensor in w.items():
        exact = tensor.grad.numpy()
        assert np.abs(gradients[name] - exact).max() <= 1e-4 * np.abs(exact).max() + least, name
