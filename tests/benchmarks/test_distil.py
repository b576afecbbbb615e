"""specs/distil.yaml: a student with a teacher beside the same student without one, on text that was held out.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_distil.py          # minutes for each seed
    DISTIL_SEEDS=1,2,3 pytest -n 0 -s -m benchmark tests/benchmarks/test_distil.py

The student's phase is the same in both but for its objective: text, order, budget and first weights are equal, since
all of them follow from the seed and the name of the phase.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny

pytestmark = pytest.mark.benchmark
SEEDS = [int(seed) for seed in os.environ.get("DISTIL_SEEDS", "1").split(",")]


def held_out(run: Path, phase: str) -> dict[str, float]:
    """The last loss of each source, in nats per token."""
    rows = [json.loads(line) for line in (run / phase / "metrics.jsonl").read_text().splitlines()]
    last = [row["validation"] for row in rows if "validation" in row][-1]
    return {m["source"]: m["value"] for m in last if m["name"] == "loss" and m["unit"] == "nats/token"}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_teacher_helps(seed: int, tmp_path: Path) -> None:
    spec, found = tiny.ROOT / "specs" / "distil.yaml", {}
    alone = ["--set", "phases.teacher=null", "--set", "phases.student.objective={kind: cross_entropy}"]
    for name, more in {"taught": [], "alone": alone}.items():
        ended = tiny.call("run", spec, "--set", f"seed={seed}", *more, "--out", tmp_path / name, timeout=None)
        assert ended.returncode == 0, ended.stderr
        found[name] = held_out(tmp_path / name, "student")
    found["teacher"] = held_out(tmp_path / "taught", "teacher")
    print("\n" + json.dumps({"row": "distil, nats/token held out", "seed": seed, **found}))
    assert all(found["taught"][source] < found["alone"][source] for source in found["alone"])
