"""A trained bias of scores that hangs on the distance alone, looked up.

Shape letters: B batch, T queries, S keys, H heads.
"""

from __future__ import annotations

from tinygrad import Tensor

from llmspec.parts.ops import Near


def by_distance(near: Near) -> Tensor:
    """The numbers that are looked up for each query and key, (B or 1, H, T, S)."""
    middle = int(near.table.shape[1]) // 2
    distance_BTS = near.keys.unsqueeze(1) - near.queries.unsqueeze(2)
    inside = (distance_BTS + middle).clamp(0, 2 * middle)  # those of keys that no query sees may lie outside
    return near.table.transpose(0, 1)[inside].permute(0, 3, 1, 2)


def by_place(near: Near, tokens: int) -> Tensor:
    """The same (1, H, T, T) where the keys are the queries' own, whose places differ as their positions do.

    Each row is the one above it, moved by one, which takes no looking up.
    """
    heads, middle = int(near.table.shape[0]), int(near.table.shape[1]) // 2
    reach = near.table[:, middle - tokens + 1 : middle + tokens].pad((None, (0, 1)))
    rows = reach.unsqueeze(1).expand(heads, tokens, 2 * tokens).reshape(heads, -1)[:, : tokens * (2 * tokens - 1)]
    return rows.reshape(1, heads, tokens, 2 * tokens - 1)[..., tokens - 1 :]
