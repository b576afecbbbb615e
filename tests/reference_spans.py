"""Span corruption once more, as its authors do it: random_spans_noise_mask, random_spans_helper and sentinels of
google-research/text-to-text-transfer-transformer (preprocessors) and of transformers' script for Flax."""

from __future__ import annotations

import numpy as np


def noise_mask(length: int, density: float, mean: float, rng: np.random.Generator) -> np.ndarray:
    """Which of a text's tokens are noise."""
    noise = min(max(int(np.round(length * density)), 1), length - 1)
    number = max(int(np.round(min(noise, length - noise) / mean)), 1)

    def segments(items: int) -> np.ndarray:
        first = np.arange(items - 1) < number - 1
        rng.shuffle(first)
        return np.bincount(np.cumsum(np.concatenate([[0], first])))

    lengths = np.stack([segments(length - noise), segments(noise)], axis=1).reshape(-1)
    starts = np.zeros(length, int)
    starts[np.cumsum(lengths)[:-1]] = 1
    return np.cumsum(starts) % 2 == 1


def with_sentinels(tokens: np.ndarray, mask: np.ndarray, sentinels: list[int]) -> list[int]:
    """Each run of tokens under the mask becomes one sentinel, in their order; the others stay."""
    out, number = [], 0
    for i, token in enumerate(tokens.tolist()):
        if not mask[i]:
            out.append(token)
        elif i == 0 or not mask[i - 1]:
            out.append(sentinels[number])
            number += 1
    return out


def pair(tokens: np.ndarray, mask: np.ndarray, sentinels: list[int], eos: int) -> tuple[list[int], list[int]]:
    """(inputs, targets), each with its end token."""
    return [*with_sentinels(tokens, mask, sentinels), eos], [*with_sentinels(tokens, ~mask, sentinels), eos]


def lengths(inputs: int, density: float, mean: float) -> tuple[int, int]:
    """(tokens of text, of targets) for inputs of this length, their end tokens included."""

    def both(length: int) -> tuple[int, int]:
        noise = round(length * density)
        number = round(noise / mean)
        return length - noise + number + 1, noise + number + 1

    length = inputs
    while both(length + 1)[0] <= inputs:
        length += 1
    return length, both(length)[1]
