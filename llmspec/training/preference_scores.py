"""How good rewards of answers are: calibration, and whether they follow the length of answers; all in float64.

n answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from llmspec.core.metrics import Metric
from llmspec.training.scores import calibration_error


def better_pairs(records: Sequence[int], ranks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(better, worse) of all answers to one prompt, of which one ranks above the other."""
    of = dict[int, list[int]]()
    for i, record in enumerate(records):
        of.setdefault(record, []).append(i)
    for group in of.values():
        for i, j in combinations(group, 2):
            if ranks[i] != ranks[j]:
                yield (i, j) if ranks[i] < ranks[j] else (j, i)


def preference_scores(
    rewards: np.ndarray, records: Sequence[int], ranks: Sequence[int], lengths: Sequence[int]
) -> tuple[Metric, ...]:
    """What is told of the rewards (n,) of held-out answers together; `lengths` in tokens.

    ECE: how far the probability of the answer that is preferred, σ of the difference of both rewards, is from how often
    it is the better one (Guo et al. 2017, equation 3). `length correlation` is that of reward and tokens of all answers
    (Pearson); `longer is better` how often the better answer is the longer one, of those pairs of different length: an
    accuracy that is no higher has learned nothing else.
    """
    pairs = np.array([*better_pairs(records, ranks)], np.int64).reshape(-1, 2)
    rewards, tokens = rewards.astype(np.float64).reshape(-1), np.array(lengths, np.float64)
    apart = rewards[pairs[:, 0]] - rewards[pairs[:, 1]]
    sure = 1 / (1 + np.exp(-np.abs(apart)))
    longer = tokens[pairs[:, 0]] - tokens[pairs[:, 1]]
    unequal = longer != 0
    found = [Metric("ECE", calibration_error(sure, apart > 0), better="lower")]
    if len(rewards) > 1 and np.ptp(rewards) > 0 and np.ptp(tokens) > 0:
        found.append(Metric("length correlation", float(np.corrcoef(rewards, tokens)[0, 1])))
    if unequal.any():
        found.append(Metric("longer is better", float((longer[unequal] > 0).mean())))
    return tuple(found)
