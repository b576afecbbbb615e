"""GPT-2 and LLaMA are specs made of parts: with the same weights they give the logits of the transformers library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from networks import CONTEXT, EPS, ROWS, VOCAB, Inputs, apart, drawn_tokens, drawn_weights, memory, plan_of  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402  (networks opens the device)
from llmspec.backends.tensors import tensors_from_numpy  # noqa: E402  (networks opens the device)
from llmspec.compiler.masks import range_inputs  # noqa: E402
from llmspec.compiler.plan import ModelPlan  # noqa: E402
from llmspec.model.transformer import Transformer, block_context  # noqa: E402

D, HEADS, KV_HEADS, LAYERS, D_FF = 16, 4, 2, 2, 40
Arrays = dict[str, np.ndarray]


def ours(plan: ModelPlan, weights: Arrays, tokens: np.ndarray, plain: bool) -> np.ndarray:
    model, low = Transformer(plan), backend("CPU", plain)
    tensors = {**Inputs().put(weights), **tensors_from_numpy(**model.tables())}
    read = tensors_from_numpy(tokens=tokens, **range_inputs(plan, False, CONTEXT))
    out = model.logits(low.ops(low.inputs), tensors, read, block_context(read))
    return memory(out.contiguous().realize()).copy()


def theirs(model: Any, state: Arrays, tokens: np.ndarray) -> np.ndarray:
    """Logits of a model of the library that got every one of its weights from `state`, in float64."""
    missing, unexpected = model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    assert not unexpected and not [m for m in missing if m != "lm_head.weight" or not model.config.tie_word_embeddings]
    model.tie_weights()
    with torch.no_grad():
        return model.double().eval()(torch.tensor(tokens, dtype=torch.long)).logits.numpy()


def test_gpt2() -> None:
    plan = plan_of(
        {
            "d_model": D,
            "layers": LAYERS,
            "position": {"kind": "learned"},
            "norm": {"kind": "layernorm"},
            "attention": {"kind": "multi_head", "heads": HEADS, "bias": True},
            "mlp": {"kind": "gelu", "d_ff": D_FF, "bias": True},
            "heads": {"lm": {"kind": "lm", "tied": True}},
        }
    ).model
    w = drawn_weights(plan, 1)
    state = {"transformer.wte.weight": w["embed_tokens.weight"], "transformer.wpe.weight": w["position.weight"]}
    state |= {f"transformer.ln_f.{k}": w[f"final_norm.{k}"] for k in ("weight", "bias")}
    for i in range(LAYERS):
        at, to = f"layers.{i}", f"transformer.h.{i}"
        for kind in ("weight", "bias"):
            flip = (lambda m: m.T) if kind == "weight" else (lambda m: m)  # their Conv1D is (inputs, outputs)
            state[f"{to}.ln_1.{kind}"], state[f"{to}.ln_2.{kind}"] = (
                w[f"{at}.{n}.{kind}"] for n in ("attention_norm", "mlp_norm")
            )
            qkv = [w[f"{at}.attention.{p}_proj.{kind}"] for p in "qkv"]
            state[f"{to}.attn.c_attn.{kind}"] = flip(np.concatenate(qkv))
            for name, source in (
                ("attn.c_proj", "attention.o_proj"),
                ("mlp.c_fc", "mlp.up_proj"),
                ("mlp.c_proj", "mlp.down_proj"),
            ):
                state[f"{to}.{name}.{kind}"] = flip(w[f"{at}.{source}.{kind}"])
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        n_embd=D,
        n_layer=LAYERS,
        n_head=HEADS,
        n_inner=D_FF,
        activation_function="gelu_new",
    )
    exact = theirs(transformers.GPT2LMHeadModel(config), state, drawn_tokens(1))
    for plain in (False, True):
        assert apart(ours(plan, w, drawn_tokens(1), plain), exact) < 400 * EPS


@pytest.mark.parametrize("theta", [100.0, 10_000.0])
def test_llama(theta: float) -> None:
    plan = plan_of(
        {
            "d_model": D,
            "layers": LAYERS,
            "position": {"kind": "rope", "theta": theta},
            "attention": {"kind": "grouped_query", "heads": HEADS, "kv_heads": KV_HEADS},
            "mlp": {"kind": "swiglu", "d_ff": D_FF},
            "norm": {"kind": "rmsnorm", "eps": 1e-3},
            "heads": {"lm": {"kind": "lm", "tied": False}},
        }
    ).model
    w = drawn_weights(plan, 2)
    names = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm", "attention": "self_attn"}
    state = {
        "model.norm.weight": w["final_norm.weight"],
        "lm_head.weight": w["lm_head.weight"],
        "model.embed_tokens.weight": w["embed_tokens.weight"],
    }
    for name, value in w.items():
        if name.startswith("layers."):
            _, i, part, rest = name.split(".", 3)
            state[f"model.layers.{i}.{names.get(part, part)}.{rest}"] = value
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=D,
        intermediate_size=D_FF,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-3,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    if hasattr(config, "rope_theta"):  # before transformers 5
        config.rope_theta = theta
    exact = theirs(transformers.LlamaForCausalLM(config), state, drawn_tokens(2))
    assert exact.shape == (ROWS, CONTEXT, VOCAB)
    for plain in (False, True):
        assert apart(ours(plan, w, drawn_tokens(2), plain), exact) < 400 * EPS
