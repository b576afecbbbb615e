"""specs/grpo.yaml, made small: a model that answers in four ways learns the one that is rewarded, from rewards alone;
and the best of several answers teaches the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.spec import load_spec
from llmspec.training.run import run

REWARD = "{kind: regex, pattern: '[0-9]+', whole: true}"
SETS = (
    "model.d_model=32",
    "model.layers=2",
    "model.attention.heads=2",
    "phases.sft.budget=120 steps",
    "phases.sft.micro_batch_size=16",
    "phases.sft.optimizer.lr=5e-3",
    "phases.grpo.budget=12 steps",
    f"phases.grpo.reward={REWARD}",
    "phases.grpo.prompts_per_rollout=8",
    "phases.grpo.micro_batch_size=32",
    "phases.grpo.optimizer.lr=2e-3",
    "phases.best={kind: best_of_n, from: sft, mixture: {bare: 100%}, budget: 6 steps, threshold: 1, max_tokens: 12, "
    f"reward: {REWARD}, micro_batch_size: 8, validation_prompts: 16, optimizer: {{kind: adamw, lr: 3e-3}}}}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learn") / "run"
    run(compile_spec(load_spec(tiny.ROOT / "specs" / "grpo.yaml", SETS).spec), out)
    return out


def rows(folder: Path, phase: str, file: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / phase / f"{file}.jsonl").read_text().splitlines()]


def held_out(folder: Path, phase: str) -> dict[str, float]:
    last = [row for row in rows(folder, phase) if "validation" in row][-1]
    return {metric["name"]: metric["value"] for metric in last["validation"]}


def test_what_is_rewarded_becomes_what_is_said(folder: Path) -> None:
    taken = [row for row in rows(folder, "grpo") if "lr" in row]
    assert taken[0]["reward"] < 0.6, "one way of answering is as probable as the others"
    assert held_out(folder, "grpo")["reward"] >= 0.9
    assert taken[0]["kl"] == pytest.approx(0, abs=1e-6) and taken[-1]["reference_kl"] > 0.01
    assert taken[-1]["reward"] > taken[0]["reward"] + 0.2 and taken[-1]["answer_tokens"] < taken[0]["answer_tokens"]
    spent = rows(folder, "grpo", "timing")[3]["parts"]
    assert set(spent) == {"drawing", "scoring", "log-probabilities", "update"}
    assert 0 < sum(spent.values()) <= rows(folder, "grpo", "timing")[3]["seconds"]


def test_the_best_answers_teach_it_too(folder: Path) -> None:
    taken = [row for row in rows(folder, "best") if "lr" in row]
    assert taken[0]["reward"] < 0.6 and taken[-1]["reward"] > taken[0]["reward"] + 0.2
    assert taken[0]["reward_best"] >= taken[0]["reward"] and 0 < taken[0]["kept"] <= 1
    assert "kl" not in taken[0] and held_out(folder, "best")["reward"] >= 0.9


def test_explain_says_what_the_time_went_into(folder: Path) -> None:
    done = subprocess.run(tiny.command("explain", str(folder)), capture_output=True, text=True, cwd=tiny.ROOT)
    assert done.returncode == 0, done.stderr
    assert "drawing" in done.stdout and "log-probabilities" in done.stdout
