"""specs/t5-tiny.yaml learns: its loss beside that of counts of what is said, its fills beside the commonest.

    pytest -n 0 -s -m benchmark tests/benchmarks/test_t5_tiny.py              # some minutes on two quiet cores
    T5_TINY=runs/t5-tiny pytest -n 0 -s -m benchmark tests/benchmarks/test_t5_tiny.py        # of a run that is done

Spans are those of the run's own validation. A fill is right where it is the span, token by token.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import llmspec
from llmspec.data.prepare import PreparedData, prepare
from llmspec.runs.run import RunFolder

pytestmark = pytest.mark.benchmark
PHASE, ROWS, AT_ONCE, STEPS = "pretrain", 128, 16, 256
"""Rows whose spans are filled in, those that are decoded side by side, and steps of training that are counted."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the spec that is done."""
    if done := os.environ.get("T5_TINY"):
        return Path(done)
    out = tmp_path_factory.mktemp("t5") / "run"
    ended = tiny.call("run", tiny.ROOT / "specs" / "t5-tiny.yaml", "--out", out, timeout=None)
    assert ended.returncode == 0, ended.stderr
    return out


def test_it_beats_counts_of_what_is_said(run: Path) -> None:
    rows = [json.loads(line) for line in (run / PHASE / "metrics.jsonl").read_text().splitlines()]
    losses = [m["value"] for row in rows for m in row.get("validation", ()) if m["name"] == "loss"]
    prepared = prepare(RunFolder.open(run).plan())
    counts, spans = said_in_training(prepared)
    held_out = [row for batch in prepared.validation(PHASE)["wiki"] for row in rows_of(batch)]
    filled, frequent = fills(run, prepared, held_out[:ROWS], spans.most_common(1)[0][0])
    seconds = sum(json.loads(line)["seconds"] for line in (run / PHASE / "timing.jsonl").read_text().splitlines())
    found = {
        "row": "spans filled in, t5-tiny",
        "nats/token": losses,
        "nats/token of counts": unigram(counts, prepared.codec.vocab, [said for _, said in held_out]),
        "right fills": filled,
        "right by the most frequent span": frequent,
        "seconds in steps": round(seconds),
    }
    print("\n" + json.dumps(found))
    assert losses[-1] < found["nats/token of counts"] and losses[-1] < losses[len(losses) // 2] < losses[0]
    assert filled > frequent


def rows_of(batch: Any) -> Iterator[tuple[list[int], list[int]]]:
    """What is read and what is said in each row of a batch."""
    for read, filled, targets, weights in zip(
        batch.encoder_tokens, batch.encoder_filled, batch.targets, batch.weights, strict=True
    ):
        if filled:
            yield read[:filled].tolist(), targets[weights > 0].tolist()


def spans_of(said: Sequence[int], sentinels: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """The tokens behind each sentinel, up to the next one."""
    found, at = dict[int, list[int]](), None
    for token in said:
        if token in sentinels:
            at = found.setdefault(token, [])
        elif at is not None:
            at.append(token)
    return {sentinel: tuple(span) for sentinel, span in found.items()}


def said_in_training(prepared: PreparedData) -> tuple[Counter[int], Counter[tuple[int, ...]]]:
    """Tokens that were said in the first steps, sentinels and ends among them, and spans."""
    stream, tokens, spans = prepared.stream(PHASE), Counter[int](), Counter[tuple[int, ...]]()
    for step in range(min(STEPS, stream.steps)):
        for _, said in rows_of(stream.batch(step)):
            tokens.update(said)
            spans.update(spans_of(said[:-1], prepared.codec.specials.sentinels).values())
    return tokens, spans


def unigram(counts: Counter[int], vocab: int, said: Sequence[Sequence[int]]) -> float:
    """Nats per token of texts by counts, one more of each."""
    total = sum(counts.values()) + vocab
    return float(np.mean([-np.log((counts[token] + 1) / total) for text in said for token in text]))


def fills(
    run: Path, prepared: PreparedData, rows: Sequence[tuple[list[int], list[int]]], most_frequent: tuple[int, ...]
) -> tuple[float, float]:
    """Shares of spans that are right: those of the model's most probable tokens, and the same span everywhere."""
    model, specials = llmspec.open(run), prepared.codec.specials
    right = frequent = total = 0
    for begin in range(0, len(rows), AT_ONCE):
        some = rows[begin : begin + AT_ONCE]
        cache, logits = model.decoder.prefill([read for read, _ in some])
        drawn = [logits.argmax(-1)]
        while len(drawn) < model.plan.model.context - 1:
            drawn.append(model.decoder.step(cache, drawn[-1].tolist()).argmax(-1))
        for tokens, (_, said) in zip(np.stack(drawn, axis=1).tolist(), some, strict=True):
            ended = tokens[: tokens.index(specials.eos)] if specials.eos in tokens else tokens
            told = spans_of(ended, specials.sentinels)
            for sentinel, span in spans_of(said[:-1], specials.sentinels).items():
                right += told.get(sentinel) == span
                frequent, total = frequent + (span == most_frequent), total + 1
    return right / total, frequent / total
