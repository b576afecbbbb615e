"""Texts with the numbers that a model has given them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmspec.core.visible import visible
from llmspec.render.classified import WIDTH
from llmspec.render.report_shared import table
from llmspec.render.samples import attributions, credit
from llmspec.render.terminal import err, out


def as_data(model: Any, texts: Sequence[str], found: Sequence[Any]) -> dict[str, Any]:
    """JSON-able form."""
    return {
        "model": model.plan.name,
        "phase": model.phase,
        "texts": [
            {"text": text, "value": one.value, **({"cut": True} if one.cut else {})}
            for text, one in zip(texts, found, strict=True)
        ],
        "sources": attributions(model),
    }


def show(model: Any, texts: Sequence[str], found: Sequence[Any]) -> None:
    """A line a text, with its number."""
    console = out()
    made = table("text", "value", right=("value",))
    for text, one in zip(texts, found, strict=True):
        shown = visible(" ".join(text.split()))
        made.add_row(shown if len(shown) <= WIDTH else shown[: WIDTH - 1] + "…", f"{one.value:.4g}")
    console.print(made)
    if cut := sum(one.cut for one in found):
        err().print(f"note: of {cut:,} text{'s' * (cut > 1)} the beginning alone was read: longer than the model reads")
    if line := credit(model):
        err(style="dim", soft_wrap=True).print(line)
