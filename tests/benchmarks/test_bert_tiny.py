"""specs/bert-tiny.yaml learns: its accuracy at masked places beside count models of the same text.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_bert_tiny.py            # some minutes on two quiet cores
    BERT_SEEDS=1,2,3 pytest -n 0 -s -m benchmark tests/benchmarks/test_bert_tiny.py
    BERT_TINY=runs/bert-tiny pytest -n 0 -s -m benchmark tests/benchmarks/test_bert_tiny.py      # of a run that is done

The places and what hides them are those of the run's own validation, so that both guess the same tokens from the same
text. What the count model is to beat knows both neighbours.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
from neighbours import Neighbours

from llmspec.data.prepare import prepare
from llmspec.runs.run import RunFolder

pytestmark = pytest.mark.benchmark
SEEDS = [int(seed) for seed in os.environ.get("BERT_SEEDS", "1").split(",")]
PHASE = "pretrain"


@pytest.fixture(scope="module", params=SEEDS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the spec that is done."""
    if done := os.environ.get("BERT_TINY"):
        return Path(done)
    out = tmp_path_factory.mktemp("bert") / "run"
    ended = tiny.call(
        "run", tiny.ROOT / "specs" / "bert-tiny.yaml", "--set", f"seed={request.param}", "--out", out, timeout=None
    )
    assert ended.returncode == 0, ended.stderr
    return out


def test_it_beats_count_models_of_both_neighbours(run: Path) -> None:
    rows = [json.loads(line) for line in (run / PHASE / "metrics.jsonl").read_text().splitlines()]
    accuracy = [m["value"] for row in rows for m in row.get("validation", ()) if m["name"] == "accuracy"]
    counted = baselines(run)
    seconds = sum(json.loads(line)["seconds"] for line in (run / PHASE / "timing.jsonl").read_text().splitlines())
    found = {
        "row": "accuracy at masked places, bert-tiny",
        "seed": RunFolder(run).plan().seed,
        "accuracy": accuracy,
        **counted,
        "seconds in steps": round(seconds),
    }
    print("\n" + json.dumps(found))
    assert accuracy[-1] >= 3 * counted["most frequent token"]
    assert accuracy[-1] > counted["both neighbours"]
    assert accuracy[-1] > accuracy[len(accuracy) // 2] > accuracy[0], "it still rises"


def baselines(run: Path) -> dict[str, float]:
    """Accuracy of the count models at the places of the run's validation."""
    plan = RunFolder.open(run).plan()
    prepared = prepare(plan)
    ((source, train, _),) = prepared.sides()["plain"]
    end, mask = prepared.codec.specials.need("eos"), prepared.codec.specials.need("mask")
    text = np.insert(np.asarray(train.tokens).astype(np.int64), train.offsets[:-1], end)
    model, inputs, right = Neighbours(text, prepared.codec.vocab, mask), prepared.inputs(PHASE), dict[str, int]()
    total = 0
    for i, batch in enumerate(prepared.validation(PHASE)[source]):
        asked = inputs.asked(batch, "validation", source, i)
        beside = np.pad(asked.tokens, ((0, 0), (1, 1)), constant_values=end)
        for row, place in np.argwhere(asked.weights > 0).tolist():
            stood, total = int(asked.targets[row, place]), total + 1
            guesses = {
                "most frequent token": model.most_frequent,
                "both neighbours": model.guess(int(beside[row, place]), int(beside[row, place + 2])),
            }
            for name, guess in guesses.items():
                right[name] = right.get(name, 0) + (guess == stood)
    return {name: n / total for name, n in right.items()}
