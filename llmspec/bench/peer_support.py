"""What of a plan the peers know; asked before anything is measured, so without importing them."""

from __future__ import annotations

from llmspec.bench.task import BenchError, Side
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import Problem

KNOWN: dict[Side, dict[str, tuple[str, ...]]] = {
    "torch": {
        "position": ("learned", "sinusoidal", "rope", "alibi", "none"),
        "attention": ("multi_head", "grouped_query", "multi_query"),
        "mlp": ("relu", "gelu", "silu", "swiglu", "geglu"),
        "norm": ("layernorm", "rmsnorm"),
    },
    "transformers": {  # LLaMA
        "position": ("rope",),
        "attention": ("multi_head", "grouped_query", "multi_query"),
        "mlp": ("swiglu",),
        "norm": ("rmsnorm",),
    },
}


def require(side: Side, plan: ModelPlan) -> None:
    """Raises BenchError, with every reason, where the peer's model does not have the plan's parts."""
    kinds = {section: getattr(plan, section).kind for section in KNOWN[side]}
    foreign = [f"model.{section} `{kind}`" for section, kind in kinds.items() if kind not in KNOWN[side][section]]
    if side == "transformers":
        if plan.norm.placement != "pre":
            foreign.append("norms after the blocks")
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
