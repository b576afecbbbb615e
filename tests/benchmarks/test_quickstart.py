"""What the quickstart promises, on a real run.

pytest -m benchmark tests/benchmarks/test_quickstart.py -s

Prints one JSON line with what was measured.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from kneser_ney import Bigram

pytestmark = [pytest.mark.benchmark, pytest.mark.network]
ANSWERS = 200


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """(run directory, seconds): fresh, unless LLMSPEC_QUICKSTART names one."""
    if named := os.environ.get("LLMSPEC_QUICKSTART"):
        return Path(named).absolute(), float("nan")
    out = tmp_path_factory.mktemp("quickstart") / "run"
    began = time.monotonic()
    done = tiny.call("run", "specs/quickstart.yaml", "--out", out, cwd=tiny.ROOT, timeout=None)
    assert done.returncode == 0, done.stderr
    return out, time.monotonic() - began


@pytest.fixture(scope="module")
def prepared(quickstart: tuple[Path, float]) -> Any:
    from llmspec.data.prepare import prepare
    from llmspec.runs.run import RunFolder

    return prepare(RunFolder.open(quickstart[0]).plan(), offline=True)


def joined(batches: Any, end: int) -> Any:
    """The tokens of blocks in their order, as one sequence that begins with the end token."""
    targets = np.concatenate([b.targets[b.weights > 0] for b in batches])
    return np.concatenate([[end], targets])


def test_pretraining_beats_a_bigram(quickstart: tuple[Path, float], prepared: Any) -> None:
    from llmspec.core.metrics import Metric
    from llmspec.parts.tokenizers.special_tokens import EOS
    from llmspec.runs.run import RunFolder

    end = prepared.codec.specials[EOS]
    held_out = prepared.validation("pretrain")["plays"]
    reading = prepared.readings["plays"]
    train = [
        end,
        *(
            t
            for text in prepared.codec.encode(["".join(p) for p in reading.texts(reading.train)])
            for t in (*text, end)
        ),
    ]
    validation = joined(held_out, end)
    bigram = Bigram(np.array(train), prepared.codec.vocab).nats(validation) / held_out.characters
    rows = RunFolder.open(quickstart[0]).phase("pretrain").metrics.read()
    metrics = [Metric.load(m) for m in [r["validation"] for r in rows if "validation" in r][-1]]
    score = {m.unit: m.value for m in metrics if m.source == "plays"}
    model = score["nats/character"]
    assert score["tokens"] == len(validation) - 1
    print(
        json.dumps(
            {
                "quickstart": "pretrain",
                "seconds": quickstart[1],
                "nats_per_character": model,
                "bigram_nats_per_character": bigram,
                "cores": os.cpu_count(),
            }
        )
    )
    assert model < bigram


def test_it_answers_and_ends_its_turn(quickstart: tuple[Path, float], prepared: Any) -> None:
    import llmspec

    titles = [i.document.record["title"] for i in prepared.readings["wiki"].validation][:ANSWERS]
    assert len(titles) == ANSWERS
    model = llmspec.open(quickstart[0])
    answers = [model.generate(f"What is {title}?", seed=i)[0] for i, title in enumerate(titles)]
    good = [a for a in answers if len(a.text.split()) >= 2 and a.finish_reason in ("stop", "end")]
    for title, answer in list(zip(titles, answers, strict=True))[:10]:
        print(f"{title}: {answer.text}")
    print(json.dumps({"quickstart": "chat", "answers": len(answers), "good": len(good)}))
    assert len(good) >= 0.95 * ANSWERS
