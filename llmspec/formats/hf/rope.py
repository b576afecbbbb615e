"""Rotary positions in config.json: `rope_parameters` (transformers 5), also by type of layer, and the older
`rope_theta` with `rope_scaling`; read and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmspec.formats.hf.family import RopeOf

FIELD = "rope_parameters"
CONTEXT = "max_position_embeddings"
SCALINGS: Mapping[str, Mapping[str, str]] = {
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_context",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_context",
        "attention_factor": "attention_factor",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
        "truncate": "truncate",
    },
}
"""rope_type -> its parameters in config.json, and their keys in a spec."""
USUAL: Mapping[str, Any] = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
"""Parameters that are left out where they have these values."""
KNOWN = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
LARGEST = 1 << 24


class Unreadable(ValueError):
    """What of a config's rotary positions is not understood; the text says it."""


def fields(rope: RopeOf | Mapping[str, RopeOf] | None) -> Iterator[str]:
    """The fields of config.json that say something of rotary positions."""
    if rope is None:
        return
    yield FIELD
    for of in [rope] if isinstance(rope, RopeOf) else rope.values():
        yield from (of.theta_field, of.fraction_field, *([of.scaling_field] if of.scaling_field else []))


def read(config: Mapping[str, Any], of: RopeOf, layer_type: str | None, context: Any) -> dict[str, Any]:
    """The `position:` of a type of layer, None where all are alike. Raises Unreadable."""
    own = dict(_parameters(config, of, layer_type))
    kind = own.get("rope_type", own.get("type")) or "default"
    theta = own.get("rope_theta") or config.get(of.theta_field) or of.theta
    fraction = own.get("partial_rotary_factor")
    fraction = config.get(of.fraction_field) if fraction is None else fraction
    fraction = of.fraction if fraction is None else fraction
    found: dict[str, Any] = {"kind": "rope", "theta": _number(theta, "rope_theta")}
    if fraction != 1:
        found["fraction"] = _number(fraction, "partial_rotary_factor")
    if kind == "default":
        names: Mapping[str, str] = {"factor": ""}
    elif not isinstance(kind, str) or kind not in SCALINGS:
        raise Unreadable(f"rope_type {kind!r} is not known here, which is: default, {', '.join(SCALINGS)}")
    else:
        names = SCALINGS[kind]
    unknown = [k for k, v in own.items() if k not in names and k not in KNOWN and v is not None and not _idle(k, kind)]
    if unknown:
        raise Unreadable(f"`{unknown[0]}` beside rope_type {kind} is not understood")
    if kind != "default":
        given = {names[k]: v for k, v in own.items() if k in names and v is not None}
        found["scaling"] = {"kind": kind, **_completed(kind, given, context)}
    return found


def _idle(key: str, kind: Any) -> bool:
    """Whether transformers does not look at a parameter of a kind, though its files have it."""
    return key == "original_max_position_embeddings" and kind in ("default", "linear", "dynamic")


def _parameters(config: Mapping[str, Any], of: RopeOf, layer_type: str | None) -> Mapping[str, Any]:
    found = config.get(FIELD)
    if isinstance(found, Mapping) and layer_type is not None and isinstance(found.get(layer_type), Mapping):
        found = found[layer_type]
    if found is None and of.scaling_field:
        found = config.get(of.scaling_field)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise Unreadable(f"{FIELD} is no map")
    return found


def _completed(kind: str, given: dict[str, Any], context: Any) -> dict[str, Any]:
    """What transformers takes where a parameter is left out."""
    found = {k: v if k in ("truncate", "original_context") else _number(v, k) for k, v in given.items()}
    if kind in ("llama3", "yarn", "dynamic"):
        found.setdefault("original_context", context)
    if "factor" not in found:
        raise Unreadable(f"rope_type {kind} says no `factor`")
    return found


def extended(position: Mapping[str, Any], context: Any) -> Any:
    """The longest text that a model reads: with dynamic scaling, which alone counts `max_position_embeddings` before
    it, so many times more."""
    scaling = position.get("scaling") or {}
    if scaling.get("kind") != "dynamic" or not isinstance(context, int):
        return context
    return min(LARGEST, int(context * scaling["factor"]))


def written(position: Mapping[str, Any]) -> dict[str, Any]:
    """The same as `rope_parameters` of transformers 5."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": position["theta"]}
    if position.get("fraction", 1.0) != 1.0:
        found["partial_rotary_factor"] = position["fraction"]
    if scaling := position.get("scaling"):
        found["rope_type"] = scaling["kind"]
        for name, key in SCALINGS[scaling["kind"]].items():
            if scaling.get(key) is not None and USUAL.get(name) != scaling[key]:
                found[name] = scaling[key]
    return found


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unreadable(f"{name} is {value!r}, which is no number")
    return float(value)
