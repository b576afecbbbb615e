"""Speed and memory beside other libraries, and how they grow.

Each row is run alone, on a quiet machine.
pytest -s -m benchmark "tests/benchmarks/test_speed.py::test_training_step[gpt2]"

Prints one JSON line a row: what was measured, its ratio to the peer with the smallest and largest of the rounds, and
the target. The same by hand:  llmspec bench tests/benchmarks/specs/gpt2.yaml --only train --against torch
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from llmspec.bench.report import BenchReport, Row
from llmspec.bench.run import asked, bench, step_flops
from llmspec.bench.task import MODULES, Result, Side, Task
from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.spec import load_spec

pytestmark = pytest.mark.benchmark
SPECS = Path(__file__).parent / "specs"
TRAINED = ("nanogpt_cpu", "gpt_small", "gpt2")
ROUNDS = 3
GROWTH = 1.15
"""How much faster than its operation count a step's time may grow."""


def plan_of(name: str, *overrides: str) -> Plan:
    path = SPECS / f"{name}.yaml"
    return compile_spec(load_spec(path, list(overrides)).spec, base=str(SPECS))


@cache
def measured(name: str, work: str, peer: Side) -> BenchReport:
    pytest.importorskip(MODULES[peer][-1])
    return bench(plan_of(name), only=[work], against=[peer], rounds=ROUNDS)


def said(row: str, found: Row, limit: str, target: float) -> None:
    """Prints the row's line and holds it to the target: `limit` is `most` or `least`."""
    assert found.ratio is not None
    print(
        "\n"
        + json.dumps(
            {
                "row": row,
                "figure": found.figure,
                "unit": found.unit,
                "llmspec": found.ours,
                "peer": found.peer,
                "ratio": round(found.ratio, 3),
                "spread": [round(found.low or 0, 3), round(found.high or 0, 3)],
                f"at_{limit}": target,
            }
        )
    )
    assert found.ratio <= target if limit == "most" else found.ratio >= target


@pytest.mark.parametrize("name", TRAINED)
def test_training_step(name: str) -> None:
    said(f"training step, {name}", measured(name, "train", "torch").row("train", "step"), "most", 1.0)


@pytest.mark.parametrize("name", TRAINED)
def test_training_step_beside_a_compiled_one(name: str) -> None:
    """As a benchmark of PyTorch would have it: its time to compile is not counted."""
    row = measured(name, "train", "torch.compile").row("train", "step")
    said(f"training step beside torch.compile, {name}", row, "most", 1.0)


@pytest.mark.parametrize("name", TRAINED)
def test_peak_memory(name: str) -> None:
    said(f"peak memory, {name}", measured(name, "train", "torch").row("train", "peak memory"), "most", 1.0)


def test_decode() -> None:
    found = measured("smollm2_135m", "decode", "transformers").row("decode", "speed")
    said("decode, smollm2_135m", found, "least", 1.7)


def test_prefill() -> None:
    found = measured("smollm2_135m", "prefill", "transformers").row("prefill", "speed")
    said("prefill of 128 tokens, smollm2_135m", found, "least", 1.3)


DOUBLED: dict[str, list[str]] = {
    "tokens": ["phases.train.micro_batch_size=16"],
    "layers": ["model.layers=8"],
    "width": ["model.d_model=512", "model.attention.heads=8", "model.mlp.d_ff=2048"],
    "context": ["model.context=256"],
}


@pytest.mark.parametrize("what", DOUBLED)
def test_growth(what: str) -> None:
    tasks = [
        Task(side="llmspec", work="train", plan=plan_of("growth", *changes), phase="train")
        for changes in ([], DOUBLED[what])
    ]
    rounds: list[list[Any]] = [
        [median(Result.model_validate_json(asked(task)).seconds) for task in tasks] for _ in range(ROUNDS)
    ]
    base, doubled = (median(r[side] for r in rounds) for side in (0, 1))
    allowed = step_flops(tasks[1]) / step_flops(tasks[0])
    ratios = [r[1] / r[0] for r in rounds]
    print(
        "\n"
        + json.dumps(
            {
                "row": f"growth, {what} doubled",
                "seconds": [base, doubled],
                "ratio": round(doubled / base, 3),
                "spread": [round(min(ratios), 3), round(max(ratios), 3)],
                "flops_ratio": round(allowed, 3),
                "at_most": round(allowed * GROWTH, 3),
            }
        )
    )
    assert doubled / base <= allowed * GROWTH
