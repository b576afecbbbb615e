"""Dropout by its definition: Threefry 2x32 with 20 rounds (Salmon et al. 2011, section 4.2), and what each site drops.

A site's numbers are multiplied with 0 or 1 / (1 - share). Its number counts the sites of a pass, from 1 on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Array = np.ndarray
TURNS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


def counted_bits(key: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Two uint32 for each of the counters (low, high), of one shape, under a key (2,) uint32."""
    wrap = 0xFFFFFFFF
    keys = [int(key[0]), int(key[1]), int(key[0]) ^ int(key[1]) ^ PARITY]
    a, b = (low.astype(np.uint64) + keys[0]) & wrap, (high.astype(np.uint64) + keys[1]) & wrap
    for group in range(5):
        for turn in TURNS[group % 2]:
            a = (a + b) & wrap
            b = ((b << np.uint64(turn) | b >> np.uint64(32 - turn)) & wrap) ^ a
        a = (a + keys[(group + 1) % 3]) & wrap
        b = (b + keys[(group + 2) % 3] + group + 1) & wrap
    return a.astype(np.uint32), b.astype(np.uint32)


def factors(bits: Array, share: float) -> Array:
    return np.where(bits >= np.uint32(int(share * 2**32)), 1 / (1 - share), 0.0)


def of_numbers(key: Array, site: int, shape: tuple[int, ...], share: float) -> Array:
    """Of an array: the first words of counters (i, site), then their second words, in its order."""
    half = -(-int(np.prod(shape)) // 2)
    first, second = counted_bits(key, np.arange(half), np.full(half, site))
    return factors(np.concatenate([first, second])[: np.prod(shape)], share).reshape(shape)


def of_attention(key: Array, shape: tuple[int, ...], share: float) -> Array:
    """Of weights (B, H, T, S) under the key of their site: both words of counters (j, row) for keys 2j and 2j + 1."""
    rows, keys = int(np.prod(shape[:-1])), shape[-1]
    pairs = -(-keys // 2)
    words = counted_bits(key, *np.meshgrid(np.arange(pairs), np.arange(rows)))
    return factors(np.stack(words, -1).reshape(rows, -1)[:, :keys], share).reshape(shape)


def attention_key(key: Array, site: int) -> Array:
    """(2,) uint32 of the attention that is such a site: the words of counter (0, site)."""
    return np.concatenate(counted_bits(key, np.zeros(1), np.full(1, site)))


class Dropping:
    """What a pass over rows drops, one row after another; each counts the same sites."""

    def __init__(self) -> None:
        self.shares, self.key = dict[str, float](), np.zeros(2, np.uint32)
        self.begin(0, 1)

    def drop(self, key: Array, shares: Mapping[str, float]) -> None:
        """From now on, these shares by site; none for nothing."""
        self.shares, self.key = dict(shares), key

    def begin(self, row: int, rows: int) -> None:
        """A row of so many."""
        self._row, self._rows, self._site = row, rows, 0

    def numbers(self, site: str, x: Array) -> Array:
        """The row's (T, n) numbers of an array (rows, T, n), at a site of that name."""
        if not (share := self.shares.get(site)):
            return x
        self._site += 1
        return x * of_numbers(self.key, self._site, (self._rows, *x.shape), share)[self._row]

    def weights(self, x: Array, head: int, heads: int) -> Array:
        """The weights (T, S) of a head; all heads are one site."""
        if not (share := self.shares.get("attention")):
            return x
        self._site += head == 0
        own = attention_key(self.key, self._site)
        return x * of_attention(own, (self._rows, heads, *x.shape), share)[self._row, head]
