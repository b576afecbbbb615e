"""Slow pairs are interpolated, fast ones stay, and scores become sharper (Peng et al. 2023, arXiv:2309.00071)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.parts.rope_scalings.base import RopeScaling, plain_frequencies

if TYPE_CHECKING:
    import numpy as np


class Yarn(RopeScaling):
    """Pairs that turn seldom are slowed down by `factor`, and the turned numbers grow a little (YaRN, Peng et al. 2023,
    section 3)."""

    kind: Literal["yarn"] = "yarn"
    formula: ClassVar[str] = (
        "frequency_i = θ^(−2i/d)·(1 − r_i + r_i/factor),  r rises from 0 to 1 between beta_fast and beta_slow turns"
    )
    in_float64: ClassVar[tuple[str, ...]] = (
        "factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "attention_factor": (
            "queries and keys would become 0, and all keys weigh alike",
            "queries and keys would be infinite",
        )
    }
    original_context: int = Field(gt=0, le=1 << 40)
    """The context before it was extended. Unit: tokens."""
    attention_factor: float | None = Field(None, gt=0, le=1 << 20)
    """What cosines and sines are multiplied with; 0.1·ln(factor) + 1 if omitted, or as the mscales say."""
    beta_fast: float = Field(32.0, gt=0, le=1 << 20)
    """Pairs that turn more often than this in `original_context` tokens stay as they are."""
    beta_slow: float = Field(1.0, gt=0, le=1 << 20)
    """Pairs that turn less often than this in `original_context` tokens are slowed down fully."""
    mscale: float | None = Field(None, gt=0, le=1 << 20)
    """With `mscale_all_dim`: attention_factor is (0.1·mscale·ln(factor) + 1) / (0.1·mscale_all_dim·ln(factor) + 1)
    (DeepSeek-V2)."""
    mscale_all_dim: float | None = Field(None, gt=0, le=1 << 20)
    """See `mscale`."""
    truncate: bool = True
    """Whether both ends of the ramp are rounded to whole pairs, outwards."""

    def check(self, width: int) -> Iterable[Problem]:
        if (self.mscale is None) != (self.mscale_all_dim is None) and self.attention_factor is None:
            given, other = ("mscale", "mscale_all_dim")[:: 1 if self.mscale_all_dim is None else -1]
            yield Problem(
                f"{given} counts only together with {other}",
                (given,),
                hint=f"{other}: … beside it, or an attention_factor",
                consequence="it would change nothing",
            )
        if self.attention_factor is not None:
            for name in ("mscale", "mscale_all_dim"):
                if getattr(self, name) is not None:
                    yield Problem(
                        f"{name} makes the attention_factor, which is given",
                        (name,),
                        hint=f"either {name} or attention_factor",
                        consequence="it would change nothing",
                    )
        if self.beta_slow >= self.beta_fast:
            yield Problem(
                f"beta_slow {self.beta_slow:g} is not below beta_fast {self.beta_fast:g}",
                ("beta_slow",),
                hint="beta_slow: 1 and beta_fast: 32 are those of the paper",
                consequence="the ramp between fast and slow pairs would run backwards",
            )

    def frequencies(self, theta: float, width: int, length: int) -> np.ndarray:
        import numpy as np

        # The pair, as a real number, that turns so many times in the original context.
        first, last = (
            width * math.log(self.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, width - 1)
        steep = last - first or 0.001
        slowed = np.clip((np.arange(width // 2) - first) / steep, 0, 1)
        plain = plain_frequencies(theta, width)
        return np.asarray(plain * (1 - slowed + slowed / self.factor))

    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        grown = 0.1 * math.log(self.factor)
        if self.mscale and self.mscale_all_dim:
            return (self.mscale * grown + 1) / (self.mscale_all_dim * grown + 1)
        return grown + 1
