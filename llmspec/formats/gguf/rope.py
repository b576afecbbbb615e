"""Rotary positions in metadata: `rope.freq_base`, `rope.dimension_count`, `rope.scaling.*`, and the tensor
`rope_freqs.weight`, whose numbers the wavelengths of Llama 3.1 are multiplied with; read and written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmspec.formats.hf.family import RopeOf
from llmspec.formats.hf.rope import Unreadable
from llmspec.parts.rope_scalings.llama3 import Llama3

SCALINGS: Mapping[str, Mapping[str, str]] = {
    "linear": {"factor": "factor"},
    "yarn": {
        "factor": "factor",
        "original_context_length": "original_context",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    },
}
"""`rope.scaling.type` -> what stands behind `rope.scaling.` beside it, and its keys in a spec."""
NONE = "none"
SHARPER = "attn_factor"
"""Of yarn: what its own factor on queries and keys is multiplied with."""
IDLE = ("finetuned", "original_context_length", SHARPER)
"""What may stand behind `rope.scaling.` where nothing is scaled."""
FREQUENCIES = "rope_freqs.weight"
MOST = 1 << 20
"""By how much wavelengths are stretched, at most."""
CLOSE = 1e-5
"""How near factors of wavelengths, which lie in the file as float32, have to be to those of a formula."""


def fields(rope: RopeOf | Mapping[str, RopeOf] | None) -> Iterator[str]:
    """The fields that say something of rotary positions."""
    if rope is None:
        return
    for of in [rope] if isinstance(rope, RopeOf) else rope.values():
        yield from (of.theta_field, of.fraction_field)
        if of.scaling_field:
            yield f"{of.scaling_field}.type"
            names = {name for scaling in SCALINGS.values() for name in scaling}
            yield from (f"{of.scaling_field}.{name}" for name in (*sorted(names), *IDLE))


def read(
    config: Mapping[str, Any], of: RopeOf, head_dim: Any, frequencies: Sequence[float] | None = None
) -> dict[str, Any]:
    """The `position:` of a type of layer, `frequencies` being the numbers of `rope_freqs.weight`. Raises Unreadable."""
    theta, turned = config.get(of.theta_field, of.theta), config.get(of.fraction_field)
    found: dict[str, Any] = {"kind": "rope", "theta": _positive(theta, of.theta_field)}
    if turned is not None and turned != head_dim:
        if not _whole(turned) or not _whole(head_dim) or turned > head_dim:
            said, wide = str(turned)[:80], str(head_dim)[:80]
            raise Unreadable(f"`{of.fraction_field}` is {said}, and heads have {wide} numbers")
        found["fraction"] = turned / head_dim
    elif of.fraction != 1 and turned is None:
        found["fraction"] = of.fraction
    scaling = _scaling(config, of) if of.scaling_field else None
    if frequencies is not None:
        if scaling is not None:
            raise Unreadable(f"`{of.scaling_field}.type` beside the tensor {FREQUENCIES} is not understood")
        scaling = slowed(found["theta"], frequencies)
    if scaling is not None:
        found["scaling"] = scaling
    return found


def _scaling(config: Mapping[str, Any], of: RopeOf) -> dict[str, Any] | None:
    before = f"{of.scaling_field}."
    own = {name.removeprefix(before): v for name, v in config.items() if name.startswith(before)}
    kind = own.pop("type", NONE)
    if kind == NONE:
        if more := [name for name in own if name not in IDLE and name != "factor"]:
            raise Unreadable(f"`{before}{more[0]}` without `{before}type` is not understood")
        if own.get("factor", 1) not in (0, 1):
            raise Unreadable(f"`{before}factor` without `{before}type` is not understood")
        return None
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise Unreadable(
            f"`{before}type` {str(kind)[:80]!r} is not known here, which is: {NONE}, {', '.join(SCALINGS)}"
        )
    names = SCALINGS[kind]
    if unknown := [name for name in own if name not in names and name not in IDLE]:
        raise Unreadable(f"`{before}{unknown[0]}` beside {kind} is not understood")
    if "factor" not in own:
        raise Unreadable(f"`{before}type` {kind} says no `{before}factor`")
    found: dict[str, Any] = {"kind": kind}
    for name, key in names.items():
        if name in own:
            found[key] = (_counted if key == "original_context" else _positive)(own[name], before + name)
    if found["factor"] < 1:
        raise Unreadable(f"`{before}factor` is {found['factor']}, and positions are stretched by 1 or more")
    if kind == "yarn":
        if "original_context" not in found:
            raise Unreadable(f"`{before}type` yarn says no `{before}original_context_length`")
        if (sharper := _positive(own.get(SHARPER, 1.0), before + SHARPER)) != 1:
            found["attention_factor"] = sharper * (0.1 * math.log(found["factor"]) + 1)
    elif own.get(SHARPER, 1) != 1:
        raise Unreadable(f"`{before}{SHARPER}` beside {kind} is not understood")
    return found


def slowed(theta: float, factors: Sequence[float]) -> dict[str, Any]:
    """The scaling of Llama 3.1 whose wavelengths have these factors: of those that are usual the one that fits.

    Raises Unreadable where none does."""
    if not all(isinstance(x, float) and 1 - CLOSE <= x <= MOST for x in factors):
        raise Unreadable(f"the numbers of {FREQUENCIES} are no list of factors from 1 to {MOST:,}")
    factor = max(1.0, max(factors, default=1.0))
    for original in (8192, 4096, 16384, 32768, 2048):
        made = Llama3(factor=factor, original_context=original)
        if _close(stretched(made, theta, len(factors)), factors):
            return {"kind": "llama3", "factor": factor, "original_context": original}
    raise Unreadable(f"the numbers of {FREQUENCIES} are no scaling that is known here")


def stretched(scaling: Llama3, theta: float, pairs: int) -> list[float]:
    """What wavelengths are multiplied with: the numbers of `rope_freqs.weight`."""
    from llmspec.parts.rope_scalings.base import plain_frequencies

    plain = plain_frequencies(theta, 2 * pairs)
    return [float(x) for x in plain / scaling.frequencies(theta, 2 * pairs, scaling.original_context)]


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= CLOSE * abs(x) for x, y in zip(a, b, strict=True))


def written(position: Mapping[str, Any], of: RopeOf, head_dim: int) -> dict[str, Any]:
    """The same as fields of metadata; factors of Llama 3.1's scaling are a tensor (`stretched`). Raises Unreadable
    for a scaling that the format does not say."""
    found: dict[str, Any] = {of.theta_field: position["theta"]}
    found[of.fraction_field] = int(head_dim * position.get("fraction", 1.0))
    scaling = position.get("scaling")
    if not scaling or scaling["kind"] == "llama3":
        return found
    kind, before = scaling["kind"], f"{of.scaling_field}."
    if kind not in SCALINGS or not of.scaling_field:
        raise Unreadable(f"rotary positions with {kind} scaling cannot be said")
    found[f"{before}type"] = kind
    found |= {before + name: scaling[key] for name, key in SCALINGS[kind].items() if scaling.get(key) is not None}
    if kind == "yarn":
        if scaling.get("mscale") or scaling.get("mscale_all_dim") or not scaling.get("truncate", True):
            raise Unreadable("yarn with `mscale` or without `truncate` cannot be said")
        if (own := scaling.get("attention_factor")) is not None:
            found[before + SHARPER] = own / (0.1 * math.log(scaling["factor"]) + 1)
    return found


def _positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(f"`{name}` is {str(value)[:80]}, which is no number")
    if not value > 0:
        raise Unreadable(f"`{name}` is {value}, and it has to be above 0")
    return float(value)


def _counted(value: Any, name: str) -> int:
    if not _whole(value):
        raise Unreadable(f"`{name}` is {str(value)[:80]}, which is no number of tokens")
    return int(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
