"""A second implementation of what a Plan means: numpy, float64, from the papers' formulas, written to be read.

It shares nothing with the graphs but the names of the weights. Rows are handled one by one, heads one by one.

Shape letters: T tokens, D width, V vocabulary, N positions of a batch; d head width, F hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from reference_dropout import Dropping
from reference_experts import ROUTED, balance, mixture
from reference_positions import BIASES, EMBEDDED, KNOWN_POSITIONS, POSITION_WEIGHTS, ROTATED
from reference_positions import FREQUENCIES as FREQUENCIES
from reference_positions import magnitude as magnitude
from reference_positions import slopes as slopes

from llmspec.compiler.plan import BlockPlan, ModelPlan

Array = np.ndarray
Weights = Mapping[str, Array]


# -- activations, norms, softmax ------------------------------------------------------------------------------------


def sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def normal_below(x: Array) -> Array:
    """The normal distribution up to x."""
    return 0.5 * np.vectorize(math.erfc, otypes=[float])(-x / np.sqrt(2))


def gelu_erf(x: Array) -> Array:
    return x * normal_below(x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "reglu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "gelu_erf": gelu_erf,
    "gelu": gelu,
    "silu": lambda x: x * sigmoid(x),
    "swiglu": lambda x: x * sigmoid(x),
    "geglu": gelu,
}
GATED = ("swiglu", "geglu", "reglu")


def layernorm(part: Any, w: Weights, name: str, x_TD: Array) -> Array:
    mean, variance = x_TD.mean(-1, keepdims=True), x_TD.var(-1, keepdims=True)
    return (x_TD - mean) / np.sqrt(variance + part.eps) * w[f"{name}.weight"] + w.get(f"{name}.bias", 0.0)


def rmsnorm(part: Any, w: Weights, name: str, x_TD: Array) -> Array:
    return x_TD / np.sqrt((x_TD**2).mean(-1, keepdims=True) + part.eps) * (w[f"{name}.weight"] + part.unit_offset)


NORMS: dict[str, Callable[..., Array]] = {"layernorm": layernorm, "rmsnorm": rmsnorm}


def softmax(x: Array, seen: Array | None = None) -> Array:
    """Over the last axis, of the places that are seen; the others get 0, and a row that sees nothing is 0."""
    seen = np.ones(x.shape, bool) if seen is None else np.broadcast_to(seen, x.shape)
    low = np.where(seen, x, -np.inf)
    high = low.max(-1, keepdims=True)
    e = np.exp(low - np.where(np.isfinite(high), high, 0))
    total = e.sum(-1, keepdims=True)
    return np.divide(e, total, out=np.zeros_like(e), where=total > 0)


def softcapped(x: Array, softcap: float | None) -> Array:
    return x if softcap is None else softcap * np.tanh(x / softcap)


def cross_entropy(logits_NV: Array, targets_N: Array, smoothing: float = 0.0, z_loss: float = 0.0) -> Array:
    """Nats: the expected -log p under the target, `smoothing` of which is spread evenly (Szegedy et al. 2016); and
    z_loss · log² Z (Chowdhery et al. 2022, section 5)."""
    high = logits_NV.max(-1, keepdims=True)
    log_p = logits_NV - high - np.log(np.exp(logits_NV - high).sum(-1, keepdims=True))
    wanted = np.full(logits_NV.shape, smoothing / logits_NV.shape[-1])
    wanted[np.arange(len(targets_N)), targets_N] += 1 - smoothing
    log_z = high[:, 0] + np.log(np.exp(logits_NV - high).sum(-1))
    return -(wanted * log_p).sum(-1) + z_loss * log_z**2


DROPPING = Dropping()
"""What a pass drops: nothing, unless a test says otherwise."""


# -- the network ----------------------------------------------------------------------------------------------------


def divergence(p_logits_NV: Array, q_logits_NV: Array, temperature: float) -> Array:
    """KL(p ‖ q) in nats (N,) of distributions whose logits a temperature divides."""
    p, q = softmax(p_logits_NV / temperature), softmax(q_logits_NV / temperature)
    return (p * (np.log(p) - np.log(q))).sum(-1)


def linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def sunk(scores: Array, seen: Array | None, sinks: Array | None, head: int) -> Array:
    """The softmax (T, S) of scores, where a head's sink takes its share as a key would that all see."""
    if sinks is None:
        return softmax(scores, seen)
    one = np.ones((len(scores), 1))
    seen = np.ones(scores.shape, bool) if seen is None else seen
    return softmax(np.hstack([scores, one * sinks[head]]), np.hstack([seen, one > 0]))[:, :-1]


def attention(block: BlockPlan, w: Weights, name: str, x_TD: Array, positions: Array, seen_TT: Array) -> Array:
    part, position = block.attention, block.position
    H, K = part.heads, part.key_value_heads()
    d, share = w[f"{name}.q_proj.weight"].shape[0] // H, H // K
    q, k, v = (linear(w, f"{name}.{p}_proj", x_TD) for p in "qkv")
    heads = []
    if part.qk_norm is not None and part.qk_norm_over == "all_heads":
        norm = NORMS[part.qk_norm.kind]
        q, k = (norm(part.qk_norm, w, f"{name}.{n}_norm", x) for n, x in (("q", q), ("k", k)))
    for h in range(H):
        own, shared = (slice(i * d, (i + 1) * d) for i in (h, h // share))
        q_Td, k_Td, v_Td = q[:, own], k[:, shared], v[:, shared]
        if part.qk_norm is not None and part.qk_norm_over == "head":
            norm = NORMS[part.qk_norm.kind]
            q_Td, k_Td = (norm(part.qk_norm, w, f"{name}.{n}_norm", m) for n, m in (("q", q_Td), ("k", k_Td)))
        if turn := ROTATED.get(position.kind):
            q_Td, k_Td = (turn(position, m, positions) for m in (q_Td, k_Td))
        scores = q_Td @ k_Td.T * (part.scale or 1 / np.sqrt(d))
        scores = softcapped(scores, part.softcap)
        if bias := BIASES.get(position.kind):
            scores = scores + bias(block, w, positions)[h]
        heads.append(DROPPING.weights(sunk(scores, seen_TT, w.get(f"{name}.sinks"), h), h, H) @ v_Td)
    return linear(w, f"{name}.o_proj", np.concatenate(heads, -1))


def cross_attention(block: BlockPlan, w: Weights, name: str, x_TD: Array, states_SD: Array) -> Array:
    """Queries of one text, keys and values of another: every query sees every state, and positions play no part."""
    part = block.cross_attention
    H, K = part.heads, part.key_value_heads()
    d = w[f"{name}.q_proj.weight"].shape[0] // H
    q, k, v = (linear(w, f"{name}.{p}_proj", x) for p, x in (("q", x_TD), ("k", states_SD), ("v", states_SD)))
    heads = []
    if part.qk_norm is not None and part.qk_norm_over == "all_heads":
        norm = NORMS[part.qk_norm.kind]
        q, k = (norm(part.qk_norm, w, f"{name}.{n}_norm", x) for n, x in (("q", q), ("k", k)))
    for h in range(H):
        own, shared = slice(h * d, (h + 1) * d), slice(h // (H // K) * d, (h // (H // K) + 1) * d)
        q_Td, k_Sd = q[:, own], k[:, shared]
        if (normed := part.qk_norm) is not None and part.qk_norm_over == "head":
            q_Td = NORMS[normed.kind](normed, w, f"{name}.q_norm", q_Td)
            k_Sd = NORMS[normed.kind](normed, w, f"{name}.k_norm", k_Sd)
        scores = q_Td @ k_Sd.T * (part.scale or 1 / np.sqrt(d))
        if part.softcap is not None:
            scores = part.softcap * np.tanh(scores / part.softcap)
        heads.append(DROPPING.weights(sunk(scores, None, w.get(f"{name}.sinks"), h), h, H) @ v[:, shared])
    return linear(w, f"{name}.o_proj", np.concatenate(heads, -1))


def mlp(block: BlockPlan, w: Weights, name: str, x_TD: Array) -> Array:
    return (
        mixture(block.mlp, w, name, x_TD, feed_forward) if block.mlp.routes else feed_forward(block.mlp, w, name, x_TD)
    )


def feed_forward(part: Any, w: Weights, name: str, x_TD: Array) -> Array:
    kind = part.kind
    up = linear(w, f"{name}.up_proj", x_TD)
    act = gelu_erf if getattr(part, "approximate", "tanh") == "none" else ACTIVATIONS[kind]
    hidden = act(linear(w, f"{name}.gate_proj", x_TD)) * up if kind in GATED else act(up)
    return linear(w, f"{name}.down_proj", DROPPING.numbers("mlp", hidden))


def seen_by(block: BlockPlan, documents: Array, prefix: Array) -> Array:
    """bool (T, T): which keys each query sees, by the mask's definition."""
    T, mask = len(documents), block.mask
    seen = np.zeros((T, T), bool)
    for q in range(T):
        for k in range(T):
            back, ahead = q - k, k - q
            near = mask.window is None or (back < mask.window and (mask.kind != "bidirectional" or ahead < mask.window))
            shown = {"causal": k <= q, "bidirectional": True, "prefix": k <= q or prefix[k]}[mask.kind]
            seen[q, k] = shown and near and documents[q] == documents[k]
    return seen


def block_output(
    block: BlockPlan, w: Weights, name: str, x: Array, positions: Array, seen: Array, states: Array | None = None
) -> Array:
    """The residual stream after a block; `states` are those of the encoder that it looks at."""
    drop = lambda y: DROPPING.numbers("residual", y)
    norm = lambda which, y: NORMS[block.norm.kind](block.norm, w, f"{name}.{which}", y)
    attend = lambda h: attention(block, w, f"{name}.attention", h, positions, seen)
    look = lambda h: cross_attention(block, w, f"{name}.cross_attention", h, states)
    think = lambda h: mlp(block, w, f"{name}.mlp", h)
    branches = {"attention": attend, **({"cross_attention": look} if states is not None else {}), "mlp": think}
    if block.residual == "parallel":
        return x + drop(sum(f(norm(f"{of}_norm", x)) for of, f in branches.items()))
    if block.residual == "parallel_shared":
        h = norm("attention_norm", x)
        return x + drop(sum(f(h) for f in branches.values()))
    for of, f in branches.items():
        own, after = f"{of}_norm", f"{of}_post_norm"
        x = {
            "pre": lambda own=own, f=f, x=x: x + drop(f(norm(own, x))),
            "post": lambda own=own, f=f, x=x: norm(own, x + drop(f(x))),
            "sandwich": lambda own=own, after=after, f=f, x=x: x + drop(norm(after, f(norm(own, x)))),
            "output": lambda own=own, f=f, x=x: x + drop(norm(own, f(x))),
            "pre_mlp": lambda of=of, own=own, f=f, x=x: x + drop(f(x if of == "attention" else norm(own, x))),
        }[block.residual]()
    return x


def embedded(plan: ModelPlan, w: Weights, tokens: Array, positions: Array, types: Array | None = None) -> Array:
    """What the first block reads (T, D): norm(scale · token + token type + position)."""
    part = plan.embedding
    x = w["embed_tokens.weight"][tokens] * {"sqrt_d_model": plan.d_model**0.5, None: 1.0}.get(part.scale, part.scale)
    if part.token_types:
        x = x + w["embed_tokens.token_types.weight"][np.zeros(len(tokens), int) if types is None else types]
    if plan.position.kind in EMBEDDED:
        x = x + EMBEDDED[plan.position.kind](plan.position, w, positions, plan.d_model)
    return x if part.norm is None else NORMS[part.norm.kind](part.norm, w, "embed_tokens.norm", x)


def row_hidden(
    plan: ModelPlan,
    w: Weights,
    tokens: Array,
    documents: Array | None = None,
    prefix: Array | None = None,
    types: Array | None = None,
) -> Array:
    """Hidden states (T, D) of one row before the heads; `documents` holds the document of each token, where they do not
    see one another, `prefix` which tokens belong to a prefix, and `types` their token types."""
    assert plan.position.kind in KNOWN_POSITIONS, "write down the formula of this position"
    T = len(tokens)
    positions = np.arange(T) if documents is None else restarted(documents)
    documents = np.zeros(T, int) if documents is None else documents
    prefix = np.zeros(T, bool) if prefix is None else prefix
    x = DROPPING.numbers("embedding", embedded(plan, w, tokens, positions, types))
    (stack,) = plan.stacks
    for i, kind in enumerate(stack.order):
        block = stack.blocks[kind]
        x = block_output(block, w, f"layers.{i}", x, positions, seen_by(block, documents, prefix))
    if stack.blocks[stack.order[-1]].residual != "post":
        x = NORMS[plan.norm.kind](plan.norm, w, "final_norm", x)
    return x


def of_encoder(w: Weights) -> dict[str, Array]:
    """The weights as the encoder sees them: its own, and the embedding."""
    own = {n.removeprefix("encoder."): v for n, v in w.items() if n.startswith("encoder.")}
    return {**own, **{n: v for n, v in w.items() if n.startswith(("embed_tokens.", "encoder."))}}


def pair_hidden(plan: ModelPlan, w: Weights, tokens: Array, encoder_tokens: Array) -> Array:
    """Hidden states (T, D) of a decoder's row, whose encoder has read `encoder_tokens` (S,)."""
    encoder, decoder = plan.stacks
    own = plan.model_copy(
        update={"stacks": (encoder,), "position": encoder.position, "norm": encoder.final_norm or plan.norm}
    )
    states, x = row_hidden(own, of_encoder(w), encoder_tokens), embedded(plan, w, tokens, np.arange(len(tokens)))
    positions, alone = np.arange(len(tokens)), np.zeros(len(tokens), int)
    for i, kind in enumerate(decoder.order):
        block = decoder.blocks[kind]
        seen = seen_by(block, alone, alone.astype(bool))
        x = block_output(block, w, f"layers.{i}", x, positions, seen, states)
    if decoder.final_norm is not None:
        x = NORMS[plan.norm.kind](plan.norm, w, "final_norm", x)
    return x


def pair_logits(plan: ModelPlan, w: Weights, tokens: Array, encoder_tokens: Array) -> Array:
    """Logits (T, V) of one row of a decoder."""
    return lm(plan.heads["lm"], w, pair_hidden(plan, w, tokens, encoder_tokens))


def lm(head: Any, w: Weights, x: Array) -> Array:
    """Logits of hidden states."""
    if (part := head.transform) is not None:
        name = "gelu_erf" if part.activation == "gelu" and part.approximate == "none" else part.activation
        x = ACTIVATIONS[name](linear(w, "lm_head.transform", x))
        x = x if part.norm is None else NORMS[part.norm.kind](part.norm, w, "lm_head.transform_norm", x)
    matrix = w["embed_tokens.weight" if head.tied else "lm_head.weight"]
    return softcapped(head.scale * x @ matrix.T + (w["lm_head.bias"] if head.bias else 0.0), head.softcap)


def row_logits(
    plan: ModelPlan, w: Weights, tokens: Array, documents: Array | None = None, prefix: Array | None = None
) -> Array:
    """Logits (T, V) of one row."""
    return lm(plan.heads["lm"], w, row_hidden(plan, w, tokens, documents, prefix))


def restarted(documents: Array) -> Array:
    """Positions that start from 0 with each document of a row, whose tokens stand together."""
    starts = [i for i in range(len(documents)) if i == 0 or documents[i] != documents[i - 1]]
    return np.array([i - max(s for s in starts if s <= i) for i in range(len(documents))])


def double(weights: Weights) -> dict[str, Array]:
    return {name: value.astype(np.float64) for name, value in weights.items()}


def logits(plan: ModelPlan, weights: Weights, tokens_BT: Array, documents_BT: Array | None = None) -> Array:
    """Logits (B, T, V)."""
    w = double(weights)
    made = []
    for r, tokens in enumerate(tokens_BT):
        DROPPING.begin(r, len(tokens_BT))
        made.append(row_logits(plan, w, tokens, None if documents_BT is None else documents_BT[r]))
    return np.stack(made)


def loss(plan: ModelPlan, weights: Weights, batch: Mapping[str, Any], smoothing: float) -> float:
    """The sum of the losses of a batch, each times its share, and those that parts add."""
    ROUTED.clear()
    out = logits(plan, weights, batch["tokens"], batch.get("documents"))
    losses = cross_entropy(out.reshape(-1, plan.vocab), batch["targets"].reshape(-1), smoothing)
    return float((losses * batch["loss_weights"].reshape(-1).astype(np.float64)).sum()) + balance(batch.get("filled"))


def mlp_parameters(part: Any, D: int) -> int:
    if part.routes:
        shared = mlp_parameters(part.shared, D) + part.shared_gate * D if part.shared is not None else 0
        return part.experts * (D + part.router_bias + mlp_parameters(part.expert, D)) + shared
    F, matrices = part.d_ff or 0, 3 if part.kind in GATED else 2
    return matrices * D * F + part.bias * ((matrices - 1) * F + D)


def parameters(plan: ModelPlan) -> int:
    """Number of weights, from the sizes alone."""
    D, total = plan.d_model, 0
    for stack in plan.stacks:
        for kind in stack.order:
            block = stack.blocks[kind]
            part, norm = block.attention, D * (2 if getattr(block.norm, "bias", False) else 1)
            head_dim = part.head_dim or D // part.heads
            q, kv = part.heads * head_dim, part.key_value_heads() * head_dim
            total += 2 * D * q + 2 * D * kv + part.bias * (q + 2 * kv) + bool(part.output_bias) * D
            if part.qk_norm is not None:
                normed = q + kv if part.qk_norm_over == "all_heads" else 2 * head_dim
                total += normed * (2 if getattr(part.qk_norm, "bias", False) else 1)
            total += part.sinks * part.heads
            total += mlp_parameters(block.mlp, D)
            total += norm * {"sandwich": 4, "parallel_shared": 1, "pre_mlp": 1}.get(block.residual, 2)
        final = stack.blocks[stack.order[-1]].residual != "post"
        total += final * D * (2 if getattr(plan.norm, "bias", False) else 1)
    head = plan.heads["lm"]
    rows = plan.vocab * (1 if head.tied else 2)
    total += POSITION_WEIGHTS.get(plan.position.kind, lambda _: 0)(plan)
    part = head.transform
    normed = 0 if part is None or part.norm is None else D * (1 + getattr(part.norm, "bias", False))
    transform = 0 if part is None else D * D + part.bias * D + normed
    around = plan.embedding
    total += D * ((around.token_types or 0) + (0 if around.norm is None else 1 + getattr(around.norm, "bias", False)))
    return total + rows * D + transform + plan.vocab * head.bias


def lora(given: Any, alpha: float, rslora: bool, dora: bool, kept: Any = 1.0) -> dict[str, Array]:
    """A layer `l` with an adapter (Hu et al. 2021; Kalajdzievski 2023; Liu et al. 2024): y, and the gradients of
    Σ y·g for x, A and B, and the sizes of the rows of DoRA, whose norm counts as a constant. `kept`: what each number
    of x is multiplied with where the adapter reads it."""
    t = {name: np.asarray(a, np.float64) for name, a in given.items()}
    x, g, w, a, b = t["x"], t["g"], t["l.weight"], t["l.lora_A.weight"], t["l.lora_B.weight"]
    scale, left = alpha / (np.sqrt(len(a)) if rslora else len(a)), x * kept
    whole = w + scale * b @ a
    norm = np.linalg.norm(whole, axis=1)
    factor = t["l.lora_magnitude"] / norm if dora else np.ones(len(w))
    to_whole = (g * factor).T @ left
    found = {
        "y": x @ w.T + left @ (whole * factor[:, None] - w).T + t["l.bias"],
        "x": g @ w + kept * (g @ (whole * factor[:, None] - w)),
        "l.lora_A.weight": scale * b.T @ to_whole,
        "l.lora_B.weight": scale * to_whole @ a.T,
    }
    return found | ({"l.lora_magnitude": (g * (left @ whole.T)).sum(0) / norm} if dora else {})
