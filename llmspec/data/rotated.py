"""Prompts with the answers of others: what tells how probable any answer has become, whatever it answers.

B rows, T tokens, K texts of a row at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmspec.data.layout import Batch


class Text(NamedTuple):
    """A prompt with its answer, as a row holds it."""

    row: int
    nth: int
    """Its place among the texts of the row."""
    prompt: list[int]
    answer: list[int]


def texts_of(batch: Batch) -> list[Text]:
    """The texts of a batch, row by row; their answers are the targets that count."""
    found = list[Text]()
    for row in range(len(batch.tokens)):
        filled = int(batch.filled[row])
        numbers = batch.documents[row, :filled]
        for nth in range(int(numbers.max(initial=-1)) + 1):
            places = np.flatnonzero(numbers == nth)
            counts = places[batch.weights[row, places] > 0]
            prompt = batch.tokens[row, places[0] : counts[0] + 1] if len(counts) else batch.tokens[row, places]
            found.append(Text(row, nth, prompt.tolist(), batch.targets[row, counts].tolist()))
    return found


def rotated(texts: Sequence[Text]) -> list[tuple[list[int], list[int]]]:
    """Each prompt with the answer of the nearest text before it that has another prompt, those before the first being
    the last ones; where all prompts are the same, of the text before it."""
    if all(text.prompt == texts[0].prompt for text in texts):
        return [(text.prompt, texts[i - 1].answer) for i, text in enumerate(texts)]
    taken = list[list[int]]()
    for i in range(2 * len(texts)):  # the first time round finds what stands before the first one
        before, text = texts[i % len(texts) - 1], texts[i % len(texts)]
        taken.append(taken[-1] if taken and before.prompt == text.prompt else before.answer)
    return [(text.prompt, answer) for text, answer in zip(texts, taken[len(texts) :], strict=True)]


def packed(pairs: Sequence[tuple[list[int], list[int]]], like: Batch) -> list[Batch]:
    """Prompts with answers as batches of the shape of another: each sees itself alone, and its answer counts. Of what
    does not fit a row the beginning of the prompt is cut off."""
    assert like.labels is not None
    (rows, context), most = like.tokens.shape, like.labels.weights.shape[1]
    placed, room, held = list[tuple[int, int, list[int], list[int]]](), list[int](), list[int]()
    for prompt, answer in pairs:
        prompt = prompt[-max(1, context - len(answer)) :]
        need = len(prompt) + len(answer)
        row = next((r for r, left in enumerate(room) if left >= need and held[r] < most), len(room))
        if row == len(room):
            room.append(context)
            held.append(0)
        placed.append((row, context - room[row], prompt, answer))
        room[row] -= need
        held[row] += 1
    found = [_blank(like) for _ in range(-(-len(room) // rows))]
    counted = [0] * len(room)
    for row, begin, prompt, answer in placed:
        _write(found[row // rows], row % rows, counted[row], begin, prompt, answer)
        counted[row] += 1
    for batch in found:
        empty = np.arange(context) >= batch.filled[:, None]
        last = np.where(empty, -1, batch.documents).max(1) + 1
        batch.documents[:] = np.where(empty, last[:, None], batch.documents)
        batch.positions[:] = np.where(empty, np.arange(context) - batch.filled[:, None], batch.positions)
    return found


def _blank(like: Batch) -> Batch:
    assert like.labels is not None
    zeros = {name: np.zeros_like(getattr(like, name)) for name in ("tokens", "targets", "weights", "documents")}
    zeros |= {name: np.zeros_like(getattr(like, name)) for name in ("positions", "source", "filled", "repeated")}
    labels = like.labels._replace(
        targets=np.zeros_like(like.labels.targets), weights=np.zeros_like(like.labels.weights)
    )
    return like._replace(**zeros, labels=labels)


def _write(batch: Batch, row: int, nth: int, begin: int, prompt: list[int], answer: list[int]) -> None:
    assert batch.labels is not None
    ids = [*prompt, *answer]
    end = begin + len(ids)
    batch.tokens[row, begin:end] = ids
    batch.targets[row, begin : end - 1] = ids[1:]
    batch.weights[row, begin + len(prompt) - 1 : end - 1] = 1
    batch.documents[row, begin:end], batch.positions[row, begin:end] = nth, np.arange(len(ids))
    batch.filled[row] = end
    batch.labels.weights[row, nth] = 1
