"""How fast a phase draws its answers, beside plain batched decoding of the same model, prompts, lengths and rows.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_rollouts_speed.py    # half a minute on two quiet cores

Both in one process, in turns: whole rollouts of a phase of kind grpo, each followed by its update, of which the drawing
alone counts; and `stream`, which `generate_batch` and `sample --prompts` draw by, over the same prompts by the same
weights. Weights are random, so that answers run on to their longest. Prints one JSON line.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import tiny

from llmspec.compiler import compile_spec, complete
from llmspec.data.prepare import prepare
from llmspec.decoding.generate import stream
from llmspec.forecast.rollouts import DRAWING
from llmspec.model.decoder import Decoder
from llmspec.model.weights import drawn
from llmspec.spec import load_spec
from llmspec.training.callbacks import Callback
from llmspec.training.run import set_up
from llmspec.training.stop import Stop
from llmspec.training.tasks.grpo import GRPO
from llmspec.training.trainer import Trainer

pytestmark = pytest.mark.benchmark
LEAST, ROUNDS = 0.7, 7
SETS = [
    "device=CPU",
    "model.d_model=192",
    "model.layers=4",
    "model.attention.heads=6",
    "phases.grpo.prompts_per_rollout=32",
    "phases.grpo.answers_per_prompt=4",
    "phases.grpo.max_tokens=40",
    "phases.grpo.mini_batches=4",
    "phases.grpo.micro_batch_size=32",
    "phases.grpo.optimizer={kind: adamw, lr: 1e-6, weight_decay: 0}",
]


class Sides:
    """The phase and plain decoding, over the same weights and prompts."""

    def __init__(self) -> None:
        path = tiny.ROOT / "specs" / "grpo.yaml"
        plan = compile_spec(load_spec(path, SETS).spec, base=str(path.parent))
        prepared = prepare(plan)
        plan = complete(plan, prepared.measured)
        self.phase, context = plan.phase("grpo"), set_up(plan, prepared, Callback(), Stop())
        weights = drawn(self.phase.model, plan.seed)
        others = dict.fromkeys(self.phase.others, lambda: weights)
        self.trainer = Trainer(plan, self.phase, context.backend, lambda t: weights[t.name], None, others)
        self.task: Any = GRPO(context, self.phase)
        self.task.begin(self.trainer, others)
        self.codec, self.steps = prepared.codec, 0
        self.plain = Decoder(self.phase.model, context.backend, self.trainer.weights)

    def rollout(self) -> float:
        """Tokens a second that a rollout draws, whose updates follow."""
        per = self.phase.phase.steps_per_rollout
        for step in range(self.steps, self.steps + per):
            scalars = self.trainer.steps.updates.numbers(1.0, step + 1, 1000)
            self.task.step_taken(step, self.task.train(self.trainer, step, list(scalars)))
        self.steps += per
        return float(self.task.made.lengths.sum()) / self.task.spent()[DRAWING]

    def decoded(self) -> float:
        """Tokens a second of plain decoding of the same prompts, after the last rollout."""
        prompts = [prompt.ids for prompt in self.task.made.prompts]
        began, tokens = time.perf_counter(), 0
        n = self.phase.phase.answers_per_prompt
        for _ in stream(self.plain, self.codec, prompts, self.task.decoding, n=n, seed=self.steps, chat=True):
            tokens += 1
        return tokens / (time.perf_counter() - began)


def test_rollouts_are_nearly_as_fast_as_plain_decoding(tmp_path: Path) -> None:
    sides = Sides()
    for _ in range(2):  # graphs are captured
        sides.rollout()
        sides.decoded()
    pairs = [(sides.rollout(), sides.decoded()) for _ in range(ROUNDS)]
    ratios = sorted(one / other for one, other in pairs)
    said = {
        "row": "rollouts beside plain batched decoding",
        "unit": "tokens/s",
        "rollouts": round(median(a for a, _ in pairs)),
        "plain": round(median(b for _, b in pairs)),
        "ratio": round(median(ratios), 3),
        "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "at_least": LEAST,
    }
    print("\n" + json.dumps(said))
    assert median(ratios) >= LEAST
