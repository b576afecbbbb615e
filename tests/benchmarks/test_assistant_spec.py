"""specs/assistant.yaml makes an assistant of raw text, seed by seed, measured on words that no phase was trained on.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_assistant_spec.py      # some 20 minutes a seed on two quiet cores
    ASSISTANT_SEEDS=1,2,3 pytest -n 0 -s -m benchmark tests/benchmarks/test_assistant_spec.py
    ASSISTANT_RUN=runs/assistant pytest -n 0 -s -m benchmark tests/benchmarks/test_assistant_spec.py   # a run of before

What is measured is computed here, of answers that are drawn here and of the models' log-probabilities, not read from
the run's own metrics; of those, the largest divergence that PPO has told of is looked at. Pairs are derived: the
meaning of a held-out word beside that of another held-out word.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from assistant_measures import answered, held_out, pairs, perplexity, preferred

import llmspec
from llmspec.parts.rewards.base import Answered
from llmspec.runs.run import RunFolder

pytestmark = pytest.mark.benchmark
SEEDS = [int(seed) for seed in os.environ.get("ASSISTANT_SEEDS", "1").split(",")]
LONGEST = 25 * 60.0
QUESTIONS, ANSWERS, PAIRS, DRAWS = 512, 4, 1000, 11
"""Held-out questions that are answered, so many times each; pairs that are compared; and the seed of all."""


class Run:
    """A run of the spec, and the models of its phases."""

    def __init__(self, folder: Path, seed: int, seconds: float | None) -> None:
        self.folder, self.seed, self.seconds = folder, seed, seconds
        self.plan = RunFolder(folder).plan()
        self.model = cache(lambda phase: llmspec.open(folder, phase=phase))
        self.drawn = cache(self._drawn)
        self.margins = cache(lambda phase: preferred(self.model(phase), self.pairs))
        self.pairs = pairs(self.plan, PAIRS, DRAWS)

    def say(self, **found: Any) -> None:
        rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
        print("\n" + json.dumps({"spec": "assistant", "seed": self.seed, **rounded}))

    def questions(self) -> list[str]:
        words = held_out(self.plan)
        order = np.random.default_rng(DRAWS).permutation(len(words))[:QUESTIONS]
        return [words[i][0] for i in order]

    def _drawn(self, phase: str) -> Any:
        """As PPO draws them: from the whole distribution, of as many tokens."""
        part: Any = self.plan.phase("ppo").phase
        return answered(self.model(phase), self.questions(), DRAWS, part.max_tokens, part.temperature, ANSWERS)

    def rewards(self, phase: str) -> np.ndarray:
        """(n,) what the reward model says of a phase's answers, those to one question after one another."""
        asked = [question for question in self.questions() for _ in range(ANSWERS)]
        said = zip(asked, self.drawn(phase).texts, strict=True)
        return np.array(self.model("reward").rewards([Answered(question, text) for question, text in said]))

    def told(self, phase: str, name: str, file: str = "metrics") -> list[float]:
        """A number of every step of a phase."""
        rows = (self.folder / phase / f"{file}.jsonl").read_text("utf-8").splitlines()
        return [row[name] for row in map(json.loads, rows) if name in row and "validation" not in row]


@pytest.fixture(scope="module", params=SEEDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    if there := os.environ.get("ASSISTANT_RUN"):
        return Run(Path(there), RunFolder(Path(there)).plan().seed, None)
    folder, begun = tmp_path_factory.mktemp(f"seed{request.param}") / "run", time.monotonic()
    arguments = ("run", tiny.ROOT / "specs" / "assistant.yaml", "--set", f"seed={request.param}", "--out", folder)
    subprocess.run(tiny.command(*arguments), check=True, env={**os.environ, "PYTHONPATH": str(tiny.ROOT)})
    return Run(folder, request.param, time.monotonic() - begun)


def test_the_whole_life_takes_less_than_half_an_hour(run: Run) -> None:
    phases = {phase.name: sum(run.told(phase.name, "seconds", "timing")) for phase in run.plan.phases}
    run.say(seconds=run.seconds, seconds_in_steps=phases)
    assert run.seconds is None or run.seconds <= LONGEST


def test_answers_end(run: Run) -> None:
    how = run.plan.decoding
    model, asked = run.model("sft"), run.questions()
    found = list(model.generate_batch(asked, chat=True, seed=DRAWS, decoding=how))
    ended = float(np.mean([one[0].finish_reason != "max_tokens" for one in found]))
    run.say(ended_after_sft=ended, answers=[(q, one[0].text) for q, one in zip(asked[:8], found, strict=False)])
    assert ended >= 0.95


def test_the_reward_model_knows_right_meanings(run: Run) -> None:
    scores = [run.model("reward").rewards([Answered(pair[0], pair[side]) for pair in run.pairs]) for side in (1, 2)]
    right = float(np.mean(np.array(scores[0]) > np.array(scores[1])))
    run.say(reward_accuracy=right, pairs=len(run.pairs))
    assert right >= 0.80


def standard_error(rewards: np.ndarray) -> float:
    """Of their mean, over questions: those of one question's answers are alike."""
    return float(rewards.reshape(-1, ANSWERS).mean(1).std() / np.sqrt(QUESTIONS))


@pytest.mark.parametrize("phase", ["ppo", "grpo"])
def test_answers_earn_more_and_stay_text(run: Run, phase: str) -> None:
    """The aim is PPO's; GRPO's figures are told beside it."""
    before, after, told = run.rewards("sft"), run.rewards(phase), run.told(phase, "kl")
    gain = float((after.mean() - before.mean()) / before.std())
    uncertain = float(np.hypot(*(standard_error(rewards) for rewards in (before, after))) / before.std())
    own, others = (perplexity(run.model("sft"), run.drawn(name)) for name in ("sft", phase))
    ceiling: Any = run.plan.phase(phase).phase
    run.say(
        phase=phase,
        reward_before=float(before.mean()),
        reward_after=float(after.mean()),
        spread_before=float(before.std()),
        gain=gain,
        uncertain_by=uncertain,
        largest_kl=float(max(told)),
        last_kl=float(told[-1]),
        perplexity_of_own=own,
        perplexity_of_theirs=others,
        ended=float(run.drawn(phase).ended.mean()),
        different=len(set(run.drawn(phase).texts)) / (QUESTIONS * ANSWERS),
        answers=run.drawn(phase).texts[: 8 * ANSWERS : ANSWERS],
    )
    if phase == "ppo":
        assert gain >= 1 and others <= 2 * own
        assert ceiling.kl_ceiling is not None and max(told) <= ceiling.kl_ceiling


def test_dpo_and_kto_prefer_right_meanings(run: Run) -> None:
    """In nats of the difference of both answers' log-probabilities, beside that of SFT."""
    gains = {phase: float((run.margins(phase) - run.margins("sft")).mean()) for phase in ("dpo", "kto")}
    right = {phase: float((run.margins(phase) > 0).mean()) for phase in ("sft", "dpo", "kto")}
    run.say(margin_gained=gains, right=right)
    assert gains["dpo"] > 0 and gains["kto"] >= 0.8 * gains["dpo"]
