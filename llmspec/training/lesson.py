"""What updates did to one token that a phase had drawn: its advantage, its ratio, and their bounds, in numbers.

A phase that learns from answers of its own takes one from the middle of its steps, where its learning rate is still far
from 0, and keeps it in its checkpoints. Before that, the last rollout and the weights after it tell the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def taken_at(steps: int, per_rollout: int) -> int:
    """The rollout from which a phase of so many steps keeps its lesson: the one in the middle; -1 for none, where no
    other comes after it."""
    rollout = steps // 2 // per_rollout
    return rollout if (rollout + 1) * per_rollout < steps else -1


def numbers(task: Any, after: Callable[[int], np.ndarray], step: int) -> dict[str, Any]:
    """The token whose probability has changed most, of the answer with the largest advantage, as JSON-able numbers.

    `task` holds a rollout, and `after(one)` gives the log-probabilities (length,) of the tokens of one of its answers
    after `step` steps, in nats and at the phase's temperature.
    """
    made, phase = task.made, task.phase
    advantages = np.where(made.drawn & task.counted(made)[:, None], task.advantages(made), 0.0)
    one = int(np.abs(advantages).max(1).argmax())
    length, prompt = int(made.lengths[one]), made.prompt(one)
    new = np.asarray(after(one), np.float64)
    old = made.by_token["logps"][one, :length].astype(np.float64)
    t = int(np.abs(new - old).argmax())
    low, high = phase.objective.ratio_bounds
    scores, group = task.scores(made), one // made.group * made.group
    known = {name: np.asarray(array) for name, array in task.measures(made).items()}
    reference = made.by_token.get("reference_logps") if phase.refers else None
    return {
        "step": step,
        "updates": (step - 1) % phase.steps_per_rollout + 1,
        "prompt": prompt.text,
        "said": made.tokens[one, :length].tolist(),
        "place": t,
        "ended": bool(made.ended[one]),
        "rewards": {name: float(found[one]) for name, found in made.parts.items()},
        "score": float(scores[one]),
        "group": [float(s) for s in scores[group : group + made.group]],
        "value": _at(known.get("old_values"), one, t),
        "returns": _at(known.get("returns"), one, t),
        "advantage": float(advantages[one, t]),
        "old_logp": float(old[t]),
        "new_logp": float(new[t]),
        "reference_logp": _at(reference, one, t),
        "ratio": float(phase.objective.ratios((new - old).tolist())[t]),
        "low": float(low),
        "high": float(high),
    }


def _at(array: Any, one: int, t: int) -> float | None:
    return None if array is None else float(array[one, t])
