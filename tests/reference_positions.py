"""What positions do, in numpy and float64, from the papers' formulas; the rest of the network is in reference.py.

Shape letters: T tokens, D width, d head width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from llmspec.compiler.plan import BlockPlan, ModelPlan

Array = np.ndarray


def sinusoid(position: float, width: int, theta: float) -> Array:
    """PE(p, 2i) = sin(p / theta^(2i/D)), PE(p, 2i+1) = cos of the same."""
    return np.array(
        [(np.cos if c % 2 else np.sin)(position / theta ** ((c - c % 2) / width)) for c in range(width)], np.float64
    )


def yarn(scaling: Any, theta: float, width: int, length: int) -> list[float]:
    """Peng et al. 2023, section 3.2, where r turns in the original context are made by pair d·ln(L / 2πr) / 2·ln θ."""
    ends = [
        width * np.log(scaling.original_context / (2 * np.pi * turns)) / (2 * np.log(theta))
        for turns in (scaling.beta_fast, scaling.beta_slow)
    ]
    low, high = (np.floor(ends[0]), np.ceil(ends[1])) if scaling.truncate else ends
    low, high = max(low, 0), min(high, width - 1)
    out = []
    for i in range(width // 2):
        ramp = min(1, max(0, (i - low) / (high - low if high != low else 0.001)))
        plain = theta ** (-2 * i / width)
        out.append((1 - ramp) * plain + ramp * plain / scaling.factor)
    return out


def llama3(scaling: Any, theta: float, width: int, length: int) -> list[float]:
    """By wavelength: below L / high as it is, above L / low slower by the factor, between both a mixture."""
    out, L = [], scaling.original_context
    for i in range(width // 2):
        plain = theta ** (-2 * i / width)
        wavelength = 2 * np.pi / plain
        smooth = (L / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
        if wavelength < L / scaling.high_freq_factor:
            out.append(plain)
        elif wavelength > L / scaling.low_freq_factor:
            out.append(plain / scaling.factor)
        else:
            out.append((1 - smooth) * plain / scaling.factor + smooth * plain)
    return out


def dynamic(scaling: Any, theta: float, width: int, length: int) -> list[float]:
    """Another base for texts beyond the original context."""
    over = max(length, scaling.original_context) / scaling.original_context
    base = theta * (scaling.factor * over - (scaling.factor - 1)) ** (width / (width - 2))
    return [base ** (-2 * i / width) for i in range(width // 2)]


FREQUENCIES: dict[str, Callable[..., list[float]]] = {
    "linear": lambda scaling, theta, width, length: [
        theta ** (-2 * i / width) / scaling.factor for i in range(width // 2)
    ],
    "dynamic": dynamic,
    "yarn": yarn,
    "llama3": llama3,
}
"""Radians a position of each pair, from the scaling, the base, how many numbers turn, and the text's length."""


def magnitude(scaling: Any) -> float:
    """YaRN's factor on what is turned; 1 for the others."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    size = lambda share: 0.1 * share * np.log(scaling.factor) + 1.0
    return size(scaling.mscale) / size(scaling.mscale_all_dim) if scaling.mscale else size(1.0)


def rotated(part: Any, x_Td: Array, positions: Array) -> Array:
    """Of the first numbers of a head, number i and number i + half, or 2i and 2i + 1, are one complex number, turned by
    p·theta^(-2i/width) or by a scaled angle; what a token's text is begins where positions do."""
    width, out = int(x_Td.shape[-1] * part.fraction), x_Td.copy()
    real, imaginary = np.arange(width // 2), np.arange(width // 2) + width // 2
    if part.interleaved:
        real, imaginary = 2 * np.arange(width // 2), 2 * np.arange(width // 2) + 1
    starts = [t for t, p in enumerate(positions) if p == 0]
    for t, p in enumerate(positions):
        end = min([s for s in starts if s > t], default=len(positions))
        frequencies = [part.theta ** (-2 * i / width) for i in range(width // 2)]
        if part.scaling is not None:
            frequencies = FREQUENCIES[part.scaling.kind](part.scaling, part.theta, width, positions[end - 1] + 1)
        turned = (x_Td[t, real] + 1j * x_Td[t, imaginary]) * np.exp(1j * p * np.array(frequencies))
        turned = turned * magnitude(part.scaling)
        out[t, real], out[t, imaginary] = turned.real, turned.imag
    return out


def slopes(heads: int) -> list[float]:
    """2^(-8/n) and its powers; for other numbers of heads those of the power of two below, then every other above."""
    if heads & (heads - 1) == 0:
        return [2.0 ** (-8 * (i + 1) / heads) for i in range(heads)]
    below = 1
    while 2 * below < heads:
        below *= 2
    return slopes(below) + slopes(2 * below)[0::2][: heads - below]


EMBEDDED: dict[str, Callable[..., Array]] = {
    "learned": lambda part, w, p, width: w["position.weight"][part.offset + p],
    "sinusoidal": lambda part, w, p, width: np.stack([sinusoid(x, width, part.theta) for x in p]),
}


def t5_bucket(ahead: int, buckets: int, max_distance: int, both_ways: bool) -> int:
    """Raffel et al. 2020: the first half of a direction's buckets hold one distance each, the others as many as
    their logarithms say; `ahead` is the key's position minus the query's."""
    start = 0
    if both_ways:
        buckets //= 2
        start = buckets if ahead > 0 else 0
    far = abs(ahead) if both_ways else max(0, -ahead)
    half = buckets // 2
    if far < half:
        return start + far
    wide = np.log(far / half) / np.log(max_distance / half) * (buckets - half)
    return start + min(half + int(wide + 1e-6), buckets - 1)


def t5_biases(block: BlockPlan, w: Any, p: Array) -> Array:
    part, both_ways = block.position, not block.mask.causal
    at = [[t5_bucket(int(k - q), part.buckets, part.max_distance, both_ways) for k in p] for q in p]
    return np.moveaxis(w[f"{block.position_name}.weight"][np.array(at)], -1, 0)


def alibi(block: BlockPlan, w: Any, p: Array) -> Array:
    return -np.array(slopes(block.attention.heads))[:, None, None] * (p[:, None] - p[None, :])


BIASES: dict[str, Callable[..., Array]] = {
    "t5_relative": t5_biases,
    "alibi": alibi,
}
"""What is added to the scores (H, T, T), from the block, the weights and the positions."""
ROTATED: dict[str, Callable[..., Array]] = {"rope": rotated}
POSITION_WEIGHTS: dict[str, Callable[[ModelPlan], int]] = {
    "learned": lambda plan: (plan.context + plan.position.offset) * plan.d_model,
    "t5_relative": lambda plan: plan.position.buckets * plan.decoder.blocks[0].attention.heads,
}
KNOWN_POSITIONS = {"none", *EMBEDDED, *BIASES, *ROTATED}
