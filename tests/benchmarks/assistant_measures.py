"""Measures of a run of specs/assistant.yaml on words that were held out; test_assistant_spec.py asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmspec.compiler.plan import Plan
from llmspec.data.fetch import Fetch
from llmspec.data.split import chosen, text_digest

SOURCE = "words"
ROWS = 64


class Drawn(NamedTuple):
    """Answers that a phase draws to some questions."""

    texts: list[str]
    ended: np.ndarray
    """(n,) bool."""
    tokens: list[list[int]]
    """Prompt and answer, its end of turn included where it has one."""
    begins: list[int]
    """How many of them are the prompt."""


def held_out(plan: Plan) -> list[tuple[str, str]]:
    """(question, right answer) of every word that validates, by the source's own templates."""
    source: Any = next(s.source for s in plan.sources if s.name == SOURCE)
    found = []
    for document in source.documents(Fetch(Path(plan.base), False, lambda *said: None)):
        record = source.cleaned(document.record)
        group = source.validation.group(record)
        assert group is not None
        if chosen(source.validation, document.name, text_digest(group)):
            found.append((source.prompt.format(**record), source.chosen.format(**record)))
    return found


def pairs(plan: Plan, n: int, seed: int = 0) -> list[tuple[str, str, str]]:
    """(question, right answer, the right answer of another held-out word) of n held-out words."""
    words, draw = held_out(plan), np.random.default_rng(seed)
    out = []
    for i in draw.permutation(len(words))[:n]:
        question, right = words[i]
        wrong = next(words[j][1] for j in draw.integers(0, len(words), 100) if words[j][1] != right)
        out.append((question, right, wrong))
    return out


def answered(model: Any, questions: Sequence[str], seed: int, most: int, temperature: float = 1.0, n: int = 1) -> Drawn:
    """`n` answers to each question, after one another, drawn from the model's whole distribution unless cooler."""
    how = {"temperature": temperature, "top_p": 1.0, "frequency_penalty": 0.0, "max_tokens": most}
    found = [
        answer for answers in model.generate_batch(questions, n=n, chat=True, seed=seed, **how) for answer in answers
    ]
    ended = np.array([answer.finish_reason != "max_tokens" for answer in found])
    prompts = [prompt for question in questions for prompt in [model.tokens(question, True)] * n]
    rows = [
        with_answer(model, prompt, answer.text, end) for prompt, answer, end in zip(prompts, found, ended, strict=True)
    ]
    return Drawn([answer.text for answer in found], ended, rows, [len(prompt) for prompt in prompts])


def with_answer(model: Any, prompt: Sequence[int], text: str, ended: bool = True) -> list[int]:
    """A prompt and its answer as tokens."""
    end = [model.codec.specials.need("turn_end")] if ended else []
    return [*prompt, *model.codec.encode([text])[0], *end]


def log_likelihoods(model: Any, rows: Sequence[Sequence[int]], begins: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """((n,) log-probability in nats of what stands behind the prompt of each row, (n,) its tokens)."""
    totals, counts = np.zeros(len(rows)), np.zeros(len(rows))
    for first in range(0, len(rows), ROWS):
        part = [list(row)[: model.plan.model.context] for row in rows[first : first + ROWS]]
        padded = np.zeros((len(part), max(map(len, part))), np.int32)
        for i, row in enumerate(part):
            padded[i, : len(row)] = row
        logits = model.logits(padded).astype(np.float64)
        logs = (
            logits
            - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - logits.max(-1, keepdims=True)
        )
        for i, row in enumerate(part):
            places = np.arange(begins[first + i], len(row))
            totals[first + i] = logs[i, places - 1, np.array(row)[places]].sum()
            counts[first + i] = len(places)
    return totals, counts


def perplexity(model: Any, drawn: Drawn) -> float:
    """Of drawn answers under a model, by token."""
    totals, counts = log_likelihoods(model, drawn.tokens, drawn.begins)
    return float(np.exp(-totals.sum() / counts.sum()))


def preferred(model: Any, asked: Sequence[tuple[str, str, str]]) -> np.ndarray:
    """(n,) log p(right answer) − log p(wrong answer) of some pairs, in nats."""
    sides = []
    for side in (1, 2):
        prompts = [model.tokens(pair[0], True) for pair in asked]
        rows = [with_answer(model, prompt, pair[side]) for prompt, pair in zip(prompts, asked, strict=True)]
        sides.append(log_likelihoods(model, rows, [len(prompt) for prompt in prompts])[0])
    return sides[0] - sides[1]
