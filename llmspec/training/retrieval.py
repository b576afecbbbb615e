"""How well texts find their counterparts by their vectors: recall, and how alike texts are.

n pairs, m different targets, D numbers of a vector; everything in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmspec.core.metrics import Metric

if TYPE_CHECKING:
    import numpy as np

AT_ONCE = 1 << 10
"""Anchors that are compared with all targets in one go."""
CUTOFFS = (1, 10)
"""How many of the nearest targets recall looks at."""


def retrieval_scores(vectors: np.ndarray, texts: Sequence[bytes]) -> tuple[Metric, ...]:
    """Of pairs whose anchors and targets follow one another, by their vectors (2n, D) and what tells texts apart.

    Each anchor is compared with every different target. The rank of its counterpart is the number of targets that are
    at least as near, itself included; where an anchor has several counterparts, the nearest of them counts.
    """
    import numpy as np

    unit = unit_vectors(vectors)
    anchors, (first, owner) = unit[0::2], distinct(texts[1::2])
    targets = unit[1::2][first]
    _, asker = distinct(texts[0::2])
    own = np.zeros((asker.max(initial=-1) + 1, len(first)), bool)  # (different anchors, m): what belongs together
    own[asker, owner] = True
    ranks, near, far, others = np.zeros(len(anchors), np.int64), 0.0, 0.0, 0
    for begin in range(0, len(anchors), AT_ONCE):
        here = slice(begin, begin + AT_ONCE)
        cosines, mine = anchors[here] @ targets.T, own[asker[here]]
        best = np.where(mine, cosines, -np.inf).max(1, keepdims=True)
        ranks[here] = 1 + ((cosines >= best) & ~mine).sum(1)
        near += float(cosines[np.arange(len(cosines)), owner[here]].sum())
        far, others = far + float(cosines[~mine].sum()), others + int((~mine).sum())
    n = max(1, len(anchors))
    recalls = (Metric(f"recall@{k}", float((ranks <= k).sum()) / n, better="higher") for k in CUTOFFS)
    return (
        *recalls,
        Metric("pair cosine", near / n),
        Metric("other cosine", far / max(1, others)),
    )


def distinct(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """(where each different text stands first, which of those each text is)."""
    import numpy as np

    known = dict[bytes, int]()
    numbers = np.array([known.setdefault(text, len(known)) for text in texts], np.int64)
    return np.unique(numbers, return_index=True)[1], numbers


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """The same (n, D), each over its length, float64."""
    import numpy as np

    wide = vectors.astype(np.float64)
    found: np.ndarray = wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    return found


def nearest_targets(vector: np.ndarray, targets: np.ndarray, most: int) -> list[tuple[int, float]]:
    """(number, cosine) of the targets (m, D) that are nearest to a vector (D,), the nearest first."""
    import numpy as np

    cosines = unit_vectors(targets) @ unit_vectors(vector[None])[0]
    return [(int(i), float(cosines[i])) for i in np.argsort(-cosines, kind="stable")[:most]]
