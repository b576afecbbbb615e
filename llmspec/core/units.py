"""Quantities with units, as they stand in a spec: `2M tokens`, `3 epochs of wiki`, `400 steps`, `5%`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic_core import core_schema

SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_NUMBER = r"(?P<number>\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<scale>[kmbgt]?)"
_BUDGET = re.compile(rf"{_NUMBER}\s*(?P<unit>tokens?|steps?|epochs?)(?:\s+of\s+(?P<source>[\w.-]+))?", re.IGNORECASE)
_BYTES = re.compile(r"(?P<number>\d[\d_]*(?:\.\d+)?)\s*(?P<unit>[kmgt]i?b|b)", re.IGNORECASE)
BYTES = {"b": 1, **{f"{c}{i}b": (1024 if i else 1000) ** n for n, c in enumerate("kmgt", 1) for i in ("", "i")}}
"""Bytes by unit, in lower case: kB counts in thousands, KiB in 1,024s."""
_MINUTES = re.compile(
    r"(?P<number>\d[\d_]*(?:\.\d+)?)(?P<scale>)\s*minutes?(?:\s*\((?P<steps>\d{1,15}) steps?\))?", re.IGNORECASE
)
_FLOPS = re.compile(r"(?P<number>\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*(?P<scale>[kMGTPEZY]?)flops?", re.IGNORECASE)
FLOP_SCALES = {"": 1.0, **{prefix: 1e3**n for n, prefix in enumerate("kmgtpezy", 1)}}
_SHARE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*%")


MOST = 1e18
"""Largest amount of steps, tokens or epochs, and far beyond what anybody trains on."""
MOST_FLOPS = 1e60
MOST_BYTES = 1 << 60


def _scaled(match: re.Match[str], scale: float, most: float) -> float:
    """The number of a quantity times its scale. Raises ValueError where that is more than `most`."""
    amount = float(match["number"].replace("_", "")) * scale
    if amount > most:
        raise ValueError(
            f"{short(amount) if amount < float('inf') else 'that'} is more than any machine could do; "
            f"the most is {short(float(most))}"
        )
    return amount


def short(number: float) -> str:
    """1_500_000 -> '1.5M', exactly: what it prints reads back as the same number."""
    for suffix, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        text = f"{number / scale:g}"
        if number >= scale and "e" not in text and float(text) * scale == number:
            return text + suffix
    return f"{number:g}" if float(f"{number:g}") == number else repr(number).removesuffix(".0")


def flop_text(amount: float) -> str:
    """2e15 -> '2 PFLOPs', exactly: what it prints reads back as the same number."""
    for prefix in reversed("kMGTPEZY"):
        text = f"{amount / FLOP_SCALES[prefix.lower()]:g}"
        if (
            amount >= FLOP_SCALES[prefix.lower()]
            and "e" not in text
            and float(text) * FLOP_SCALES[prefix.lower()] == amount
        ):
            return f"{text} {prefix}FLOPs"
    return f"{amount!r} FLOPs"


class Text:
    """A value written as text in the spec; subclasses parse it. Prints back to text that parses to an equal value."""

    examples: ClassVar[tuple[str, ...]] = ()
    """How it may be written, for editors."""

    @classmethod
    def parse(cls, value: object) -> Any:
        raise NotImplementedError(cls)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        def validate(value: object) -> object:
            return value if isinstance(value, cls) else cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        shown = {"examples": list(cls.examples)} if cls.examples else {}
        return {"type": "string", "description": (cls.__doc__ or "").strip().splitlines()[0], **shown}


@dataclass(frozen=True)
class Budget(Text):
    """How long to train: `2M tokens`, `400 steps`, `3 epochs of wiki`, `10 minutes` or `2 PFLOPs` of products."""

    examples: ClassVar[tuple[str, ...]] = ("2M tokens", "400 steps", "3 epochs of wiki", "10 minutes")

    amount: float
    unit: Literal["tokens", "steps", "epochs", "FLOPs", "minutes"]
    source: str | None = None
    steps: int | None = None
    """Of minutes, how many steps they are, once a machine has said it: `10 minutes (240 steps)`."""

    @classmethod
    def parse(cls, value: object) -> Budget:
        match = _BUDGET.fullmatch(str(value).strip())
        if (work := _FLOPS.fullmatch(str(value).strip())) and (
            amount := _scaled(work, FLOP_SCALES[work["scale"].lower()], MOST_FLOPS)
        ) > 0:
            return cls(amount, "FLOPs")
        if (time := _MINUTES.fullmatch(str(value).strip())) and (minutes := _scaled(time, 1.0, MOST)) > 0:
            steps = int(time["steps"]) if time["steps"] else None
            if steps != 0:
                return cls(minutes, "minutes", None, steps)
        if not match or isinstance(value, bool):
            raise ValueError(
                "expected a budget with its unit, such as `2M tokens`, `400 steps`, `3 epochs of wiki`, `10 minutes` "
                "or `2 PFLOPs`"
            )
        unit, source = match["unit"].lower().rstrip("s") + "s", match["source"]
        amount = _scaled(match, SCALES[match["scale"].lower()], MOST)
        plain = not match["scale"] and "e" not in match["number"].lower()
        if unit != "epochs" and plain and len(match["number"]) < 40 and "." in match["number"]:
            whole = match["number"].replace(".", "")
            raise ValueError(
                f"`{match['number']}` has a decimal point, and {unit} are whole: write `{whole} {unit}` "
                "where that is meant"
            )
        if (unit == "epochs") != (source is not None):
            raise ValueError("epochs are counted on one source: `3 epochs of wiki`; tokens and steps name none")
        if amount <= 0 or (unit != "epochs" and amount != int(amount)):
            raise ValueError("a budget is more than nothing, and tokens and steps are whole")
        return cls(amount, unit, source)  # type: ignore[arg-type]

    def __str__(self) -> str:
        if self.unit == "FLOPs":
            return flop_text(self.amount)
        if self.unit == "minutes":
            number = f"{self.amount:g}" if float(f"{self.amount:g}") == self.amount else repr(self.amount)
            return f"{number} minutes" + (f" ({self.steps} steps)" if self.steps else "")
        return f"{short(self.amount)} {self.unit}" + (f" of {self.source}" if self.source else "")


@dataclass(frozen=True)
class Share(Text):
    """A part of a whole: `85%`."""

    examples: ClassVar[tuple[str, ...]] = ("85%",)

    percent: float

    @classmethod
    def parse(cls, value: object) -> Share:
        match = _SHARE.fullmatch(str(value).strip())
        if not match:
            raise ValueError("expected a percentage, such as `85%`")
        return cls(_scaled(match, 1.0, MOST))

    @property
    def fraction(self) -> float:
        return self.percent / 100

    def __str__(self) -> str:
        return f"{self.percent:g}%" if float(f"{self.percent:g}") == self.percent else f"{self.percent!r}%"


@dataclass(frozen=True)
class Bytes(Text):
    """An amount of memory: `8 GiB`, `24 GB`, `512 MiB`."""

    amount: int

    @classmethod
    def parse(cls, value: object) -> Bytes:
        match = _BYTES.fullmatch(str(value).strip())
        if not match:
            raise ValueError("expected an amount of memory with its unit, such as `8 GiB` or `24 GB`")
        amount = _scaled(match, BYTES[match["unit"].lower()], MOST_BYTES)
        if amount < 1:
            raise ValueError("memory is more than nothing")
        return cls(round(amount))

    def __str__(self) -> str:
        for unit, one in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if self.amount % one == 0:
                return f"{self.amount // one} {unit}"
        return f"{self.amount} B"


def count(number: float) -> str:
    """A count for reading, rounded to three digits: 1_972_224 -> '1.97M'."""
    for suffix, scale in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if abs(number) >= scale:
            return f"{number / scale:.3g}{suffix}"
    return f"{number:.3g}" if number != int(number) else str(int(number))


def flops(value: float | None) -> str:
    """Floating-point operations for reading: 2.1e13 -> '21.3 TFLOPs'."""
    if value is None:
        return "?"
    for prefix, scale in (
        ("Y", 1e24),
        ("Z", 1e21),
        ("E", 1e18),
        ("P", 1e15),
        ("T", 1e12),
        ("G", 1e9),
        ("M", 1e6),
        ("k", 1e3),
    ):
        if value >= scale:
            return f"{value / scale:.3g} {prefix}FLOPs"
    return f"{value:.0f} FLOPs"


def size(bytes_: float) -> str:
    """Bytes for reading: 3_145_728 -> '3.0 MiB'."""
    for suffix in ("B", "KiB", "MiB", "GiB"):
        if abs(bytes_) < 1024:
            return f"{bytes_:.0f} {suffix}" if suffix == "B" else f"{bytes_:.1f} {suffix}"
        bytes_ /= 1024
    return f"{bytes_:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for reading: 75 -> '1m15s', 10 days -> '10 days', 1e9 -> '31.7 years'."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    s, days = round(seconds), seconds / 86_400
    if s < 60:
        return f"{s}s"
    if days < 4:
        return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"
    if days < 730:
        return f"{days:.0f} days"
    return f"{days / 365.25:,.1f} years" if days < 36_525 else f"{days / 365.25:,.0f} years"
