"""What every report has in common: it is a frozen value, and plain data for machines."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

from llmspec.parts.base import Frozen, Part


class Report:
    """A frozen dataclass that says everything it knows as JSON-able data."""

    about: ClassVar[str]
    """What is explained: `spec`, `run` or `prompt`."""

    def as_data(self) -> dict[str, Any]:
        """Every field, under `report` what kind of report it is."""
        return {"report": self.about, **plain(self)}


def plain(value: Any) -> Any:
    """JSON-able form of dataclasses, tuples and maps; numbers that JSON has no word for become null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Frozen):
        return plain(value.model_dump(mode="json", by_alias=True))
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def described(part: Part, *leave: str) -> str:
    """A part in one line, `swiglu, d_ff 512`: its kind and settings, without those named in `leave`."""
    return _listed({k: v for k, v in part.model_dump(mode="json", by_alias=True).items() if k not in leave})


def _listed(settings: dict[str, Any]) -> str:
    """Switches that are on by their name, the rest with its value; what is off or empty is not worth a word."""
    words = [str(settings["kind"])] if "kind" in settings else []
    for key, value in settings.items():
        if key == "kind" or value is None or value is False or value in ("", [], {}):
            continue
        if isinstance(value, dict):
            words.append(f"{key} ({_listed(value)})")
        elif isinstance(value, list):
            words.append(f"{key} {' '.join(map(str, value))}")
        else:
            words.append(key if value is True else f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(words)
