"""Mistakes in plain words: keys that nobody reads or somebody misses, kinds that no table has. Values: translate.py."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmspec.core.problems import Path, Problem, article, nearest, one_of
from llmspec.core.units import Text
from llmspec.parts.others import StartModel
from llmspec.spec import foreign
from llmspec.spec.foreign_alignment import aligned
from llmspec.spec.recovery import ODD_SPACES
from llmspec.spec.shape import Shape, default_of, places

MOST_ALIKE = 20
"""Mistakes of one kind in one place that are told one by one; of the rest, the number."""


def more(count: int, what: str, path: Path) -> Problem:
    """Stands for the mistakes beyond MOST_ALIKE."""
    return Problem(f"and {count:,} more {what} here", path)


def shown(value: Any) -> str:
    """A value as it would stand in YAML, shortened."""
    if isinstance(value, Text):
        return str(value)
    if isinstance(value, BaseModel):
        value = {k: v for k, v in value.model_dump(mode="json", by_alias=True).items() if k == "kind"} or "its own"
        return "{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}" if isinstance(value, dict) else value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def given(value: Any) -> str:
    """What stands there, with its type where that is the point: `the text `3e-4``, `a list`."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text `{shown(value)}`" if value else "an empty text"
    if isinstance(value, Mapping):
        return "a map"
    return "a list" if isinstance(value, tuple | list) else f"`{shown(value)}`"


def unknown_key(shape: Shape, kind: str, key: str, data: Mapping[str, Any], path: Path) -> Problem:
    """A key that nothing reads."""
    mine = shape.fields(kind)
    owners = [k for k in shape.parts if key in shape.fields(k)]
    at = (*path, key)
    if meant := aligned(key, kind, pattern(path), path):
        return Problem("unknown key", at, hint=meant, consequence="it would be ignored")
    if owners:
        of = " or ".join(owners)
        return Problem(
            f"`{key}` belongs to kind {of}; this is {kind}",
            at,
            hint=f"remove `{key}`, or write `kind: {owners[0]}`",
            consequence="it would be ignored",
        )
    section = pattern(path)
    if slip := slipped(key, data, path):
        return Problem("unknown key", at, hint=slip, consequence="it would be ignored")
    # What other tools call by a word is likelier meant than a key of ours in another part.
    below = bool(path) and any(p.rpartition(".")[0] == section for p in places().get(key, ()))
    if not below and (other := foreign.told(key, data[key], section, path, data)) is not None:
        return Problem("unknown key", at, hint=other[0], consequence="it would be ignored")
    elsewhere = [p for p in places().get(key, ()) if p != section]
    absent = [k for k in mine if k not in data] + (["extends"] if not path else [])
    near = nearest(key, absent) or nearest(key, mine)
    if key == "extends":
        return Problem(
            "unknown key", at, hint="`extends:` belongs at the top of the file", consequence="it would be ignored"
        )
    if elsewhere and (near is None or len(near) != len(key)):
        # The place nearest to the top is likeliest meant; of several, one within this section.
        where = foreign.named(
            min(elsewhere, key=lambda p: (p.count("."), not p.startswith(section))), section, path, data
        )
        hint = f"`{key}` belongs under `{where}`" if where else f"`{key}` belongs at the top of the file"
        return Problem("unknown key", at, hint=hint, consequence="it would be ignored")
    if near is None:
        return Problem("unknown key", at, hint=one_of(key, absent or mine), consequence="it would be ignored")
    lost = _without(near, mine.get(near)) if near not in data else f"it would be ignored beside the `{near}` there is"
    return Problem("unknown key", at, hint=f"did you mean `{near}`?", consequence=lost)


def slipped(key: str, data: Mapping[str, Any], path: Path) -> str:
    """A hint for a key that is none of its own: a colon without its space, a path with slashes, a phase at the top."""
    name, colon, value = key.partition(":")
    if colon and value and data[key] is None:
        return f"a colon needs a space behind it: `{name}: {value}`"
    if key.startswith("//"):
        return "a comment starts with `#`"
    if odd := next((c for c in key if c in ODD_SPACES), ""):
        return f"a no-break space (U+{ord(odd):04X}) is where a space is meant: type it again"
    if path:
        return ""
    if key.partition("/")[0] in data and "/" in key:
        return f"dots separate the keys of a path: `{key.replace('/', '.')}`"
    for section, names in (("phases", data.get("phases")), ("data.sources", _inside(data.get("data"), "sources"))):
        if isinstance(names, Mapping) and key in names:
            return f"`{key}` belongs under `{section}`: `{section}.{key}`"
    return ""


def _inside(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _without(near: str, info: FieldInfo | None) -> str:
    """What happens where `near` was meant and is not read."""
    if info is None or info.is_required():
        return f"it would be ignored, and `{near}` would be missing"
    default = default_of(info)
    kept = "would be left open" if default is None else f"would keep its default, {shown(default)}"
    return f"it would be ignored, and `{near}` {kept}"


def pattern(path: Path) -> str:
    """A path with the user's names left out, as `places` has them."""
    steps = [str(step) for step in path]
    for i, step in enumerate(steps[:-1]):
        if (i, step) in ((0, "phases"), (1, "sources")):
            steps[i + 1] = "<name>"
    return ".".join(steps)


def missing_key(key: str, description: str, path: Path) -> Problem:
    """What is said of a key that has no default and is not given."""
    return Problem(
        f"`{key}` is missing", (*path, key), hint=explained(key, description), consequence="it has no default"
    )


def explained(key: str, description: str) -> str:
    """`layers: number of blocks`: the first sentence of a key's description."""
    first = re.split(r"(?<=[a-z0-9)`])\. |[.;]$|; ", " ".join(description.partition("\n\n")[0].split()))[0]
    return f"{key}: {first[:1].lower()}{first[1:]}" if first else ""


def wrong_kind(shape: Shape, kind: Any, path: Path, given_keys: Collection[str] = ()) -> Problem:
    """`kind:` is missing beside `given_keys`, or names nothing."""
    table, label = shape.parts, _label(path)
    if kind is None:
        fits = [k for k in table if set(given_keys) <= set(shape.fields(k))] if given_keys else []
        return Problem(
            "`kind` is missing",
            (*path, "kind"),
            hint=f"write `kind: {fits[0]}`, which has these keys" if len(fits) == 1 else f"one of: {', '.join(table)}",
            consequence=f"it would be unclear which {label} is meant",
        )
    if not isinstance(kind, str):
        return Problem(f"a kind is a name, not {given(kind)}", (*path, "kind"), hint=f"one of: {', '.join(table)}")
    near = next((k for k in foreign.KINDS.get(kind.lower(), "").split() if k in table), None) or nearest(kind, table)
    return Problem(
        f"no {label} is of kind `{kind}`",
        (*path, "kind"),
        hint=f"did you mean `{near}`?" + (f" (kinds: {', '.join(table)})" if len(table) > 1 else "")
        if near
        else f"one of: {', '.join(table)}",
    )


def not_a_map(shape: Shape, value: Any, path: Path) -> Problem:
    """Something else where a map of settings should be."""
    label = _label(path)
    if isinstance(value, str) and shape.has_kinds and (kind := nearest(value, shape.parts)):
        hint = f"{path[-1]}: {{kind: {kind}}}"
    elif value is None:
        hint = "write its keys below it, indented; or remove it"
    elif shape.item is not None:
        first = value[0] if isinstance(value, tuple | list) and value else None
        named = first.get("name") if isinstance(first, Mapping) else None
        hint = f"names belong where this list has dashes: `{path[-1]}:`, and below it `{named or 'NAME'}: {{…}}`"
    elif isinstance(value, str) and value and StartModel in shape.parts.values():
        hint = f"{path[-1]}: {{model: {shown(value)}}}, for the model in that folder"
    elif path == ("data",) and isinstance(value, str) and value:
        hint = f"data: {{sources: {{text: {{kind: files, path: {shown(value)}}}}}}}"
    else:
        names = list(shape.fields(next(iter(shape.parts), None)))[:3] or ["name"]
        hint = f"write its keys below it: {', '.join(names)} …"
    one = f"`{label}`" if len(path) == 1 or shape.item else f"{article(label)} {label}"
    return Problem(f"{one} is a map of settings, not {given(value)}", path, hint=hint)


def _label(path: Path) -> str:
    """What a place is called: `source` for data.sources.wiki, `position` for model.position."""
    if pattern(path).endswith("<name>"):
        return str(path[-2]).removesuffix("s")
    names = [step for step in path if isinstance(step, str)]
    return names[-1] if names else "spec"
