"""What DPO and KTO gain on held-out answers, seed by seed: KTO reads the same answers as thumbs, without their pairs.

pytest -n 0 -s -m benchmark tests/benchmarks/test_preferred_answers.py        # 3 runs of a quarter of a minute
"""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from test_answers_run import rows, written

pytestmark = pytest.mark.benchmark
SEEDS = (1, 2, 3)
SHARE = 0.8
"""Of DPO's gain that KTO is to come to."""


def gains(folder: Path, seed: int) -> dict[str, float]:
    """Of each phase its last margin on held-out answers, which is 0 before the first step."""
    folder.mkdir()
    done = tiny.call("run", written(folder), "--out", folder / "run", "--set", f"seed={seed}", timeout=None)
    assert done.returncode == 0, done.stderr
    return {phase: rows(folder / "run", phase)[1][-1]["rewards/margins"] for phase in ("dpo", "kto")}


def test_thumbs_come_to_most_of_the_gain_of_pairs(tmp_path: Path) -> None:
    found = {seed: gains(tmp_path / f"seed{seed}", seed) for seed in SEEDS}
    print({seed: {**one, "share": one["kto"] / one["dpo"]} for seed, one in found.items()})
    assert all(one["dpo"] > 0.05 for one in found.values())
    assert sum(one["kto"] / one["dpo"] for one in found.values()) / len(SEEDS) >= SHARE
