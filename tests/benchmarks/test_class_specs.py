"""specs/sentiment.yaml, sentiment-minilm.yaml and topics.yaml learn, seed by seed: accuracy on texts that were held
out, beside naive Bayes over words and pairs of words, and the commonest label, on the same split.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_class_specs.py                  # 9 runs on two quiet cores
    pytest -n 0 -s -m benchmark tests/benchmarks/test_class_specs.py -k minilm        # 3 of them: the longest
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
from naive_bayes import accuracies, split

from llmspec.data.prepare import prepare
from llmspec.runs.run import RunFolder

pytestmark = pytest.mark.benchmark
SEEDS = (1, 2, 3)
REACHED = {
    "sentiment": lambda found: found["accuracy"] >= 0.70,
    "sentiment-minilm": lambda found: found["accuracy"] > found["naive Bayes"],
    "topics": lambda found: found["accuracy"] >= 3 * found["majority"],
}
"""Spec -> what each of its runs is to reach."""


def baselines(run: Path) -> dict[str, float]:
    """On the split that the run has trained and was validated with."""
    plan = RunFolder(run).plan()
    prepared = prepare(plan)
    ((_, train, held_out),) = prepared.sides()["label"]
    names = plan.phases[0].phase.labels
    return accuracies(*(split(side, prepared.codec, names) for side in (train, held_out)))


def trained(spec: str, seed: int, folder: Path) -> dict[str, float]:
    """The last validation of a run by metric, and its seconds in steps."""
    done = tiny.call(
        "run", tiny.ROOT / "specs" / f"{spec}.yaml", "--out", folder, "--set", f"seed={seed}", timeout=None
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "classify" / "metrics.jsonl").read_text("utf-8").splitlines()]
    *_, last = (row["validation"] for row in rows if "validation" in row)
    timing = (folder / "classify" / "timing.jsonl").read_text("utf-8").splitlines()
    seconds = sum(json.loads(line)["seconds"] for line in timing)
    return {**{metric["name"]: metric["value"] for metric in last}, "seconds in steps": round(seconds)}


@pytest.mark.parametrize("spec", REACHED)
def test_held_out_texts_get_their_labels(spec: str, tmp_path: Path) -> None:
    runs = [trained(spec, seed, tmp_path / f"seed{seed}") for seed in SEEDS]
    beside = baselines(tmp_path / f"seed{SEEDS[0]}")
    print("\n" + json.dumps({"spec": spec, "seeds": SEEDS, "runs": runs, **beside}))
    assert all(REACHED[spec]({**run, **beside}) for run in runs)
