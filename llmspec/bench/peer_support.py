"""What of a plan the peers know; asked before anything is measured, so without importing them."""

from __future__ import annotations

from llmspec.bench.task import BenchError, Side
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem
from llmspec.parts.embeddings.tokens import Tokens
from llmspec.parts.heads.lm import LM
from llmspec.parts.positions.rope import Rope

KNOWN: dict[Side, dict[str, tuple[str, ...]]] = {
    "torch": {
        "embedding": ("tokens",),
        "position": ("learned", "sinusoidal", "rope", "alibi", "t5_relative", "none"),
        "attention": ("multi_head", "grouped_query", "multi_query"),
        "mask": ("causal", "bidirectional"),
        "mlp": ("relu", "relu2", "gelu", "silu", "reglu", "swiglu", "geglu", "mixture_of_experts"),
        "norm": ("layernorm", "rmsnorm"),
        "residual": ("pre", "post", "sandwich", "output", "parallel", "parallel_shared", "pre_mlp"),
        "heads": ("lm", "scalar", "classes", "tokens", "embedding"),
    },
    "transformers": {  # LLaMA
        "embedding": ("tokens",),
        "position": ("rope",),
        "attention": ("multi_head", "grouped_query", "multi_query"),
        "mask": ("causal",),
        "mlp": ("swiglu",),
        "norm": ("rmsnorm",),
        "residual": ("pre",),
        "heads": ("lm",),
    },
}


KNOWN["torch.compile"] = KNOWN["torch"]


def kinds(plan: ModelPlan) -> dict[str, set[str]]:
    """By key of the spec, the kinds that a plan has."""
    blocks = [block for stack in plan.stacks for block in stack.blocks]
    found = {key: {getattr(block, key).kind for block in blocks} for key in ("attention", "mask", "mlp", "norm")}
    added = {p.kind for stack in plan.stacks if (p := stack.position or plan.position).embeds}
    found["position"] = added | {block.position.kind for block in blocks if not block.position.embeds}
    found["attention"] |= {b.cross_attention.kind for b in blocks if b.cross_attention is not None}
    found["residual"] = {block.residual for block in blocks}
    return {**found, "embedding": {plan.embedding.kind}, "heads": {head.kind for head in plan.heads.values()}}


def require(side: Side, plan: ModelPlan) -> None:
    """Raises BenchError, with every reason, where the peer's model does not have the plan's parts."""
    blocks = [block for stack in plan.stacks for block in stack.blocks]
    foreign = [
        f"model.{section} `{kind}`"
        for section, own in kinds(plan).items()
        for kind in sorted(own)
        if kind not in KNOWN[side][section]
    ]
    if plan.generating_head != "lm" or (side == "transformers" and len(plan.heads) > 1):
        foreign.append("heads beside that of logits, or no such head")
    if side == "transformers" and plan.encoder is not None:
        foreign.append("encoders")
    attentions = [block.attention for block in blocks]
    if side == "transformers" and any(a.softcap is not None or a.scale is not None or a.sinks for a in attentions):
        foreign.append("scores that are scaled or bounded")
    biased = {b.position_name for b in blocks if b.position.kind == "t5_relative"}
    if any(not name.endswith("position") for name in biased):
        foreign.append("relative biases that differ between layers")
    ropes = [block.position for block in blocks if isinstance(block.position, Rope)]
    if any(r.interleaved for r in ropes) or any(r.follows_length(plan.dims) for r in ropes):
        foreign.append("rotary positions of neighbours, or that follow a text's length")
    if side == "transformers":
        if any(h not in (LM(tied=True), LM(tied=False)) for h in plan.heads.values()):
            foreign.append("logits that are scaled or bounded, or what stands before them")
        if plan.embedding != Tokens() or any(getattr(block.norm, "unit_offset", False) for block in blocks):
            foreign.append("embeddings that are scaled, normalised or typed, or norms with 1 + weight")
        if any(r.fraction < 1 or r.scaling for r in ropes):
            foreign.append("rotary positions that are partial or scaled")
        if len(blocks) > 1 or any(block.mask.window or block.attention.qk_norm for block in blocks):
            foreign.append("layers that differ, windows, or norms of queries and keys")
        if any(t.role == "bias" for t in plan.tensors):
            foreign.append("biases")
    if foreign:
        parts = "; ".join(f"{section} {', '.join(known)}" for section, known in KNOWN[side].items())
        raise unknown(side, ", ".join(foreign), parts)


def unknown(side: Side, what: str, known: str) -> BenchError:
    """The error for something that a peer's model does not have."""
    return BenchError(
        Problem(
            f"the {side} side does not know {what}",
            hint=f"leave out `--against {side}`; it knows {known}",
            consequence="two different models would be compared",
        )
    )
