"""A rollout by chance, as the task of kind grpo lays it out for its objective: shared by the tests of that and of its
peers.

E answers, M tokens of an answer at most, B rows, T places, D width, V vocabulary.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from llmspec.backends.backend import backend
from llmspec.parts.objectives.base import Outputs
from llmspec.parts.objectives.grpo import GRPO as Objective
from llmspec.parts.ops import Linear
from llmspec.parts.phases.grpo import GRPO as Phase
from llmspec.training.rollouts import Episodes, Packed, Prompt, packed
from llmspec.training.tasks.grpo import GRPO as Task

ROWS, WIDTH, D, V, MOST, GROUP, PROMPTS = 4, 24, 6, 11, 5, 3, 3


class Case(NamedTuple):
    """A step of one pass over all answers of a rollout."""

    objective: Objective
    phase: Any
    made: Episodes
    which: np.ndarray
    found: Packed
    arrays: dict[str, np.ndarray]
    """What the graph reads; `loss_weights` are shares of their sum."""
    features: np.ndarray
    """(B, T, D)."""
    weight: np.ndarray
    """(V, D)."""
    task: Any

    def by_answer(self, places_BT: np.ndarray) -> np.ndarray:
        """(E, M, ...) of what stands at places (B, T, ...), in the order of the step."""
        flat = places_BT.reshape(ROWS, WIDTH, -1)
        out = np.zeros((len(self.which), MOST, flat.shape[-1]))
        for i, (row, begin) in enumerate(zip(self.found.row, self.found.begin, strict=True)):
            n = int(self.made.lengths[self.which[i]])
            out[i, :n] = flat[row, begin : begin + n]
        return out


def task_of(objective: Objective, **settings: Any) -> Any:
    """The task, without a run around it."""
    given = {
        "objective": objective,
        "prompts_per_rollout": PROMPTS,
        "answers_per_prompt": GROUP,
        "max_tokens": MOST,
        "micro_batch_size": ROWS,
        "gradient_accumulation_steps": 1,
        "mini_batches": 1,
        "epochs_per_rollout": 1,
        "temperature": 1.0,
        "kl_coefficient": 0.0,
        "scale_rewards": "group",
        "mask_truncated_answers": False,
        "reward_scale": 1.0,
        "reward_clip": None,
        "missing_end_penalty": None,
    }
    task: Any = object.__new__(Task)
    task.phase = Phase.model_construct(**{**given, **settings})
    task.plan = SimpleNamespace(model=SimpleNamespace(context=WIDTH))
    task.rollout = 0
    task._arrays = SimpleNamespace(
        made=lambda batch, *place: {"targets": batch.targets, "loss_weights": batch.weights, **batch.drawn}
    )
    return task


def case(seed: int, objective: Objective, **settings: Any) -> Case:
    """Answers, what they are worth, and a model that has moved since they were drawn."""
    random, task = np.random.default_rng(seed), task_of(objective, **settings)
    n = PROMPTS * GROUP
    prompts = tuple(
        Prompt(random.integers(0, V, int(random.integers(1, 4))).tolist(), "", {}, "s") for _ in range(PROMPTS)
    )
    lengths = random.integers(1, MOST + 1, n).astype(np.int32)
    tokens = np.where(np.arange(MOST) < lengths[:, None], random.integers(0, V, (n, MOST)), 0).astype(np.int32)
    ended = random.random(n) < 0.6
    rewards = random.normal(0, 1, n).astype(np.float32)
    made = Episodes(prompts, tokens, lengths, ended, {"r": rewards}, rewards, {})
    which = random.permutation(n)
    found = packed(made, which, (ROWS, WIDTH), 0)
    assert len(found.batches) == 1
    features = random.normal(0, 1, (ROWS, WIDTH, D)).astype(np.float32)
    weight = random.normal(0, 0.7, (V, D)).astype(np.float32)
    logits = features.astype(np.float64) @ weight.astype(np.float64).T / task.phase.temperature
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(logps, found.batches[0].targets[..., None].astype(np.int64), -1)[..., 0]
    now = np.zeros((n, MOST))
    now[which] = found.gathered([own.astype(np.float32)], lengths[which], MOST)
    here = np.arange(MOST) < lengths[:, None]
    old = np.where(here, now + random.normal(0, 0.4, now.shape), 0).astype(np.float32)
    reference = np.where(here, now + random.normal(0, 0.4, now.shape), 0).astype(np.float32)
    made = made._replace(by_token={"logps": old, "reference_logps": reference})
    values = {"old_logps": old, "reference_logps": reference, "advantages": task.advantages(made)}
    (arrays,) = task._arrays_of(made, which, found, values, task.weights(made, which))
    weights = arrays["loss_weights"]
    arrays = {**arrays, "loss_weights": (weights / (weights.sum() or 1)).astype(np.float32)}
    return Case(objective, task.phase, made, which, found, arrays, features, weight, task)


def computed(given: Case) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """(the sums of the step, gradients of the features and of the head) as a graph computes them."""
    from tinygrad import Tensor

    ops = (device := backend("CPU")).ops(device.inputs)
    inputs = {name: Tensor(array) for name, array in given.arrays.items()}
    features, weight = Tensor(given.features).contiguous(), Tensor(given.weight).contiguous()
    loss = given.objective.build(None)  # type: ignore[arg-type]
    sums = loss(ops, Outputs(features, Linear(weight)), inputs)  # type: ignore[arg-type]
    gradients = [g.numpy() for g in sums["loss"].gradient(features, weight)]
    return {name: float(value.numpy()) for name, value in sums.items()}, gradients[0], gradients[1]
