"""specs/grpo.yaml: of four ways to answer, the one that is rewarded becomes the only one, seed by seed.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_grpo_spec.py    # three runs of two minutes on two quiet cores

Right is the bare number alone, asked of sums that were held out of both phases.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

pytestmark = pytest.mark.benchmark
SEEDS = (1, 2, 3)
BEFORE, AFTER = 0.30, 0.90
"""Share of right answers before, at most, and after, at least."""


def measured(folder: Path, seed: int) -> dict[str, float]:
    """Shares of right answers, of the most probable ones and of those that the first rollout has drawn; seconds."""
    done = tiny.call("run", tiny.ROOT / "specs" / "grpo.yaml", "--out", folder, "--set", f"seed={seed}", timeout=None)
    assert done.returncode == 0, done.stderr
    said = tiny.call("explain", folder, "--against", "sft", "--by", "exact_match", "--json")
    assert said.returncode == 0, said.stderr
    report = json.loads(said.stdout)
    rows = [json.loads(line) for line in (folder / "grpo" / "metrics.jsonl").read_text("utf-8").splitlines()]
    timing = [json.loads(line) for line in (folder / "grpo" / "timing.jsonl").read_text("utf-8").splitlines()]
    return {
        "sampled before": next(row["reward"] for row in rows if "reward" in row),
        "before": report["other_mean"],
        "after": report["mean"],
        "seconds of grpo": sum(row["seconds"] for row in timing),
        **{f"{name} s": sum(row["parts"][name] for row in timing) for name in timing[0]["parts"]},
    }


def test_the_rewarded_way_of_answering_is_learned(tmp_path: Path) -> None:
    runs = [measured(tmp_path / f"seed{seed}", seed) for seed in SEEDS]
    for seed, found in zip(SEEDS, runs, strict=True):
        print("\n" + json.dumps({"spec": "grpo", "seed": seed, **{k: round(v, 4) for k, v in found.items()}}))
    assert max(found["before"] for found in runs) < BEFORE and max(found["sampled before"] for found in runs) < BEFORE
    assert min(found["after"] for found in runs) >= AFTER
