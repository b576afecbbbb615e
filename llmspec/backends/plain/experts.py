"""Tokens to experts and back, in plain tinygrad under fixed shapes, whatever the router chooses.

Rows stand in blocks of equal size, each of one expert, and every expert's last block is filled up with rows that hold
no token. There are always blocks enough for every choice, so that none is dropped; with a size of choices / E at most
about twice the rows that are needed are multiplied, where all experts for all tokens would be E / k times as many.

Shape letters: B batch, T tokens, N = B · T, k experts of a token, E experts, R = N · k choices, P rows, D width.
"""

from __future__ import annotations

import math

from tinygrad import Tensor, UOp, dtypes, function

from llmspec.parts.ops import Routing, RoutingRule

SMALLEST = 1e-20
"""Added to the sum of a token's scores before they are divided by it."""


def routed(logits_BTE: Tensor, correction_E: Tensor | None, rule: RoutingRule) -> tuple[Routing, Tensor]:
    """`Ops.router`, and the expert of each choice (N · k,)."""
    count, single = int(logits_BTE.shape[-1]), int(logits_BTE.shape[1]) == 1
    logits_NE = logits_BTE.reshape(-1, count)
    scores_NE = (logits_NE.sigmoid() if rule.sigmoid else logits_NE.softmax(-1)).contiguous()
    chosen_Nk = highest(scores_NE.detach() + (0 if correction_E is None else correction_E.detach()), rule.top_k)
    weights_Nk = scores_NE.gather(-1, chosen_Nk)
    if rule.normalise:
        weights_Nk = weights_Nk / (weights_Nk.sum(-1, keepdim=True) + SMALLEST)
    tokens, places, choices, groups = laid_out(chosen_Nk.reshape(-1), count)
    chosen_R = chosen_Nk.reshape(-1)
    return Routing(weights_Nk * rule.scale, scores_NE, tokens, places, choices, groups, single), chosen_R


def counted(routing: Routing, chosen_R: Tensor, counted_BT: Tensor | None) -> Routing:
    """The same, where experts have only tokens that count (B, T), if that is given."""
    if counted_BT is None:
        return routing
    top_k, experts = int(routing.weights.shape[-1]), int(routing.tokens.shape[0])
    counted_R1 = counted_BT.reshape(-1, 1).expand(-1, top_k).reshape(-1, 1)
    of_RE = (chosen_R.reshape(-1, 1) == Tensor.arange(experts)).cast(dtypes.int32)
    return routing._replace(tokens=(of_RE * counted_R1).sum(0).cast(dtypes.int32))


def highest(scores_NE: Tensor, top_k: int) -> Tensor:
    """Places of the `top_k` highest of each row, the highest first: (N, k) int32."""
    place, found = Tensor.arange(int(scores_NE.shape[-1])), []
    for _ in range(top_k):
        best = scores_NE.argmax(-1, keepdim=True).cast(dtypes.int32).contiguous()
        scores_NE = (place == best).where(-math.inf, scores_NE).contiguous()
        found.append(best)
    return Tensor.cat(*found, dim=-1).contiguous()


def laid_out(chosen_R: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(tokens of each expert, row of each choice, choice of each row, expert of each block) of the choices."""
    choices = int(chosen_R.shape[0])
    size = -(-choices // count)
    blocks = (choices + count * (size - 1)) // size
    of_RE = (chosen_R.unsqueeze(1) == Tensor.arange(count)).cast(dtypes.int32).contiguous()
    tokens_E = of_RE.sum(0).cast(dtypes.int32).contiguous()
    ends_E = ((tokens_E + size - 1) // size).cumsum(0).contiguous()
    before_R = (of_RE.cumsum(0) * of_RE).sum(1) - 1
    first_E = (ends_E - (tokens_E + size - 1) // size) * size
    places_R = ((of_RE * first_E).sum(1) + before_R).cast(dtypes.int32).contiguous()
    row_P = Tensor.arange(blocks * size).unsqueeze(1)
    held_P = (places_R == row_P).where(Tensor.arange(choices) + 1, 0).sum(1) - 1
    groups = (Tensor.arange(blocks).unsqueeze(1) >= ends_E).cast(dtypes.int32).sum(1).minimum(count - 1)
    return tokens_E, places_R, held_P.cast(dtypes.int32).contiguous(), groups.cast(dtypes.int32).contiguous()


def dispatched(x_BTD: Tensor, routing: Routing) -> Tensor:
    """`Ops.dispatch`."""
    x_ND, top_k = x_BTD.reshape(-1, x_BTD.shape[-1]), int(routing.weights.shape[-1])
    repeated = x_ND.unsqueeze(1).expand(x_ND.shape[0], top_k, x_ND.shape[1]).reshape(-1, x_ND.shape[1])
    return moved(repeated, routing.choices, routing.places)


def combined(x_PD: Tensor, routing: Routing) -> Tensor:
    """`Ops.combine`."""
    rows = moved(x_PD, routing.places, routing.choices).reshape(*routing.weights.shape, x_PD.shape[-1])
    return (rows * routing.weights.unsqueeze(-1)).sum(1)


def moved(x: Tensor, index: Tensor, back: Tensor) -> Tensor:
    """Rows of x at `index`, zeros where that is -1. `back` leads each row of x to its place in the result, -1 for none:
    gradients are moved the other way, and no product with one-hot rows is needed."""

    def forward(x: Tensor, index: Tensor) -> Tensor:
        return rows_at(x, index)

    def backward(gradient: UOp, call: UOp) -> tuple[UOp | None, ...]:
        return rows_at(Tensor(gradient), back).contiguous().uop, None

    return function(forward, grad_fxn=backward)(x.contiguous(), index)


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """Rows of x at `index`, zeros where that is -1."""
    return (index >= 0).unsqueeze(1).where(x[index.maximum(0)], 0)
