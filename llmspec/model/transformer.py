"""The forward pass of a Plan: a pure function of weights and inputs, built from the Plan's parts.

Shape letters: B batch, T queries, S keys, D width, K key/value heads, d head width, V vocabulary, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinygrad import Tensor

from llmspec.backends.plain.ops import Ops
from llmspec.compiler.plan import ModelPlan


@dataclass
class AttentionContext:
    """What the queries of one call see: their positions, the keys' positions, the mask, and the memory of keys."""

    queries: Tensor  # (B or 1, T) int32
    keys: Tensor  # (B or 1, S) int32
    spans: Tensor  # (B or 1, T, 2) int32: the keys first … end - 1 that a query sees
    memory: Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor] | None] | None = None
    """Takes (layer, new keys, new values), gives all that the queries may see; None: the new ones alone."""
    layer: int = 0


def block_context(tokens: int, spans: Tensor, positions_BT: Tensor | None = None) -> AttentionContext:
    """The view of whole blocks; positions count from a document's start where they are given."""
    positions = Tensor.arange(tokens).reshape(1, tokens) if positions_BT is None else positions_BT
    return AttentionContext(positions, positions, spans)


class Weights(Mapping[str, Tensor]):
    """Tensors under a prefix, by relative name; notes every name that is read."""

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "", read: set[str] | None = None) -> None:
        self._tensors, self._prefix = tensors, prefix
        self.read: set[str] = set() if read is None else read

    def __getitem__(self, name: str) -> Tensor:
        full = self._prefix + name
        self.read.add(full)
        return self._tensors[full]

    def __iter__(self) -> Any:
        return (n[len(self._prefix) :] for n in self._tensors if n.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def under(self, name: str) -> Weights:
        return Weights(self._tensors, f"{self._prefix}{name}.", self.read)


class Transformer:
    """The functions of a ModelPlan's parts, put together. Holds no weights."""

    def __init__(self, plan: ModelPlan) -> None:
        self.plan, dims = plan, plan.dims
        self._hooks = plan.position.build(dims)
        self._norm = plan.norm.build(dims)
        self._attention = plan.attention.build(dims, self._hooks)
        self._mlp = plan.mlp.build(dims)

    def tables(self) -> dict[str, Any]:
        """Constant float32 numpy arrays of the position part, by full name; inputs of every step, never trained."""
        return {f"position.{k}": v for k, v in self.plan.position.tables(self.plan.dims).items()}

    def hidden(
        self,
        ops: Ops,
        tensors: Mapping[str, Tensor],
        tokens_BT: Tensor,
        view: AttentionContext,
        last: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) before the head; `tensors` holds weights and tables by full name.

        With `last` (1,) int32 that token's alone, (B, 1, D): what follows the others' last attention is left out.
        """
        w = tensors if isinstance(tensors, Weights) else Weights(tensors)
        pw = w.under("position")
        x = ops.embedding(w["embed_tokens.weight"], tokens_BT)
        if self._hooks.embed:
            x = self._hooks.embed(ops, pw, x, view.queries)
        x = ops.contiguous_barrier(ops.dropout(x))
        for layer in range(self.plan.layers):
            view.layer = layer
            b = w.under(f"layers.{layer}")
            x = self._branch(
                ops,
                b.under("attention_norm"),
                x,
                lambda h, b=b: self._attention(ops, b.under("attention"), pw, h, view),  # type: ignore[misc]
            )
            if last is not None and layer == self.plan.layers - 1:
                x = x.gather(1, last.reshape(1, 1, 1).expand(x.shape[0], 1, x.shape[2])).contiguous()
            x = self._branch(ops, b.under("mlp_norm"), x, lambda h, b=b: self._mlp(ops, b.under("mlp"), h))  # type: ignore[misc]
        return (
            ops.contiguous_barrier(self._norm(ops, w.under("final_norm"), x))
            if self.plan.norm.placement == "pre"
            else x
        )

    def _branch(self, ops: Ops, norm: Weights, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """x + f(norm(x)), or norm(x + f(x)) where norms stand after."""
        if self.plan.norm.placement == "pre":
            h = ops.contiguous_barrier(self._norm(ops, norm, x))
            return ops.residual(x, f(h))
        return ops.contiguous_barrier(self._norm(ops, norm, ops.residual(x, f(x))))

    def head(self, ops: Ops, tensors: Mapping[str, Tensor], hidden: Tensor) -> Tensor:
        """Logits (…, V) of hidden states (…, D)."""
        return ops.linear(hidden, self.head_weight(tensors))

    def head_weight(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The matrix (V, D) that makes logits of hidden states."""
        w = tensors if isinstance(tensors, Weights) else Weights(tensors)
        return w["embed_tokens.weight" if self.plan.tied_embeddings else "lm_head.weight"]

    def logits(self, ops: Ops, tensors: Mapping[str, Tensor], tokens_BT: Tensor, view: AttentionContext) -> Tensor:
        """Logits (B, T, V)."""
        return self.head(ops, tensors, self.hidden(ops, tensors, tokens_BT, view))


def assert_complete(model: Transformer) -> None:
    """The tensors that the forward pass reads are exactly the Plan's table; raises AssertionError naming the rest."""
    table = {t.name: t.shape for t in model.plan.tensors}
    tensors = {n: Tensor.empty(*s) for n, s in table.items()}
    tensors |= {n: Tensor.empty(*a.shape) for n, a in model.tables().items()}
    w = Weights(tensors)
    length = min(2, model.plan.context)
    tokens = Tensor.empty(1, length, dtype="int32")
    out = model.logits(Ops(), w, tokens, block_context(length, Tensor.empty(1, length, 2, dtype="int32")))
    unread = set(table) - w.read
    assert not unread, f"the forward pass never reads {sorted(unread)}"
    assert out.shape[-1] == model.plan.vocab
