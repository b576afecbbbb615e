"""Weights of a model in another type than they lie in: what `quantize` of `llmspec.open` and `--quantize` mean."""

from __future__ import annotations

from typing import Any

from llmspec.compiler.linear_layers import readable
from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import LlmspecError, one_of
from llmspec.core.quantised import Quantised, as_float32, quantise
from llmspec.core.weight_types import TYPES

FLOAT = "f32"
"""Asks for float32, whatever types the weights lie in."""
CHOICES = ("q8_0", "q4_0", "q4_k", FLOAT)


def check(asked: str | None) -> None:
    """Raises LlmspecError for a type that weights are not quantised to."""
    if asked is not None and asked not in CHOICES:
        raise LlmspecError(f"weights cannot be quantised to `{asked}`", one_of(str(asked), CHOICES))


def quantised(model: ModelPlan, weights: dict[str, Any], asked: str | None) -> tuple[dict[str, Any], list[str]]:
    """The weights with every matrix of float32, f16 or bf16 that may stay quantised in that type, and what is to be
    said of it.

    A matrix whose rows are no whole blocks stays as it is; so does what is quantised already, in its own type. FLOAT
    dequantises everything. Raises LlmspecError where no matrix can have the type, or a number is not finite.
    """
    check(asked)
    if asked is None:
        return weights, []
    if asked == FLOAT:
        return {name: as_float32(w) for name, w in weights.items()}, []
    kind, floats = TYPES[asked], [n for n in sorted(readable(model)) if not _in_blocks(weights[n])]
    fit = [n for n in floats if kind.fits(weights[n].shape)]
    if floats and not fit:
        raise LlmspecError(
            f"no weights can be quantised to {asked}: none has rows of a multiple of {kind.block} numbers",
            hint="a type of shorter blocks, such as q8_0" if kind.block > 32 else "",
        )
    made = {**weights, **{n: quantise(asked, as_float32(weights[n]), n) for n in fit}}
    said = []
    if not floats:
        said.append(f"the weights are quantised already, and stay in their own types, not in {asked}")
    elif len(fit) < len(floats):
        left = f"{len(floats) - len(fit)} of {len(floats)} matrices stay as they are"
        said.append(f"{left}, since their rows are no multiple of the {kind.block} numbers of a block of {asked}")
    return made, said


def _in_blocks(weight: Any) -> bool:
    return isinstance(weight, Quantised) and weight.kind.quantised
