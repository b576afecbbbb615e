"""Text without spaces: words of bounded length, vocabularies learned in bounded time and memory, stopped at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_sources import cache  # noqa: F401

from llmspec.core.problems import DataError
from llmspec.parts.tokenizers import TABLE, learner, trained
from llmspec.render.headway import Headway

LETTERS = {
    "DNA": "ACGT",
    "Chinese": "".join(map(chr, range(0x4E00, 0x4E00 + 900))),
    "base64": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    "spaces": "\n \t",
}


def stretch(kind: str, length: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(LETTERS[kind]), length))


@pytest.mark.parametrize("kind", LETTERS)
def test_learning_takes_time_by_length_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "AT_ONCE", 10**9)
    part = TABLE["bpe"](vocab=270)
    text = stretch(kind, 150_000)
    began = time.process_time()
    codec = part.train([text])
    ids, _ = codec.encode_flat([text])
    assert time.process_time() - began < 5  # one word of this length takes minutes
    assert codec.decode(ids.tolist()) == text


def test_a_vocabulary_is_the_same_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"some text, number {i}: {i * i} naïve 彗星s" for i in range(3000)]
    part = TABLE["bpe"](vocab=400, markers=("<|m|>",))
    said: list[str] = []
    here = part.train(iter(texts))
    monkeypatch.setattr(trained, "AT_ONCE", 1000)
    assert part.train(iter(texts), said.append).to_json() == here.to_json()
    assert said and "training the tokenizer on" in said[0]


def test_a_vocabulary_that_is_not_wanted_any_more_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    def stop(what: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trained.subprocess, "Popen", Noted)
    with pytest.raises(KeyboardInterrupt):
        TABLE["bpe"](vocab=5000).train([stretch("Chinese", 400_000)], stop)
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def test_a_process_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise MemoryError('no room')")
    monkeypatch.setattr(learner, "__file__", str(tmp_path / "broken.py"))
    with pytest.raises(DataError, match=r"ended with status 1: MemoryError: no room"):
        TABLE["bpe"](vocab=300).train([stretch("DNA", 300_000)])


@pytest.mark.parametrize(("kind", "least", "most"), [("words", 1.0, 1.0), ("base64", 0.2, 0.4), ("DNA", 0.2, 0.4)])
def test_different_words_are_bounded(kind: str, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    texts = [
        " ".join(f"word{i}" for i in rng.zipf(1.5, 10_000) if i < 10**6)
        if kind == "words"
        else stretch(kind, 60_000, seed)
        for seed in range(30)
    ]
    file = BytesIO()
    learner.spool(texts, file)
    assert list(learner.unspool(file)) == texts
    limit = 500_000
    found = learner.share(file, limit)
    assert least <= found <= most, found
    chosen = list(learner.thinned(texts, found))
    distinct = {word for text in chosen for word, _ in learner.words().pre_tokenize_str(text)}
    assert sum(map(len, distinct)) <= 1.3 * limit


def test_ctrl_c_is_heard_while_a_vocabulary_is_learned(tmp_path: Path, cache: Path) -> None:  # noqa: F811
    (tmp_path / "dna.txt").write_text(stretch("DNA", 3_000_000))
    spec = tmp_path / "spec.yaml"
    spec.write_text("""
name: dna
seed: 1
model: {context: 16, d_model: 16, layers: 1, position: {kind: rope}, attention: {heads: 2, kv_heads: 2},
        mlp: {kind: swiglu, d_ff: 16}, norm: {kind: rmsnorm}}
tokenizer: {kind: bpe, vocab: 20000}
data: {sources: {a: {kind: files, path: dna.txt}}}
phases: {p: {kind: pretrain, mixture: {a: 100%}, budget: 1 steps, micro_batch_size: 1,
    optimizer: {kind: adamw, lr: 1e-3}}}
""")
    command = [sys.executable, "-m", "llmspec", "check", str(spec), "--data"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
    )
    assert process.stdout
    said = ""
    while "training the tokenizer on 3 MB" not in said:
        said += (line := process.stdout.readline())
        assert line, said
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert (
        process.returncode == 130 and "stopped while training the tokenizer on 3 MB: partial files are removed" in rest
    )
    assert "Traceback" not in rest and not list(cache.rglob(".new-*"))


def test_headway_says_share_pace_and_time_left() -> None:
    now = 0.0
    headway = Headway(lambda: now)
    assert headway.line("reading a", 0, 0) == "reading a"
    assert headway.line("reading a", 10, 100) == "reading a 10%"
    now = 4.0
    assert headway.line("reading a", 50, 100) == "reading a 50%, 12.5 a second, 4.0s left"
    assert headway.line("training", 0, 0) == "training"
    now = 75.0
    assert headway.line("training", 0, 0) == "training, 1m11s"
    # The second time over, the pace counts anew; also where it begins behind the place where the first time began.
    assert headway.line("reading a", 5, 100) == "reading a 5%"
    now = 85.0
    assert headway.line("reading a", 60, 100) == "reading a 60%, 5.5 a second, 7.3s left"
    now = 95.0
    assert headway.line("reading a", 20, 100) == "reading a 20%"
