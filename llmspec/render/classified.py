"""Texts with the labels that a model has given them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmspec.core.visible import visible
from llmspec.render.report_shared import table
from llmspec.render.samples import attributions, credit
from llmspec.render.terminal import err, out

WIDTH = 60
"""Characters of a text in a table of several."""


def as_data(model: Any, texts: Sequence[str], found: Sequence[Any], top: int | None) -> dict[str, Any]:
    """JSON-able form."""
    return {
        "model": model.plan.name,
        "phase": model.phase,
        "multi_label": bool(found) and found[0].multi_label,
        "texts": [
            {
                "text": text,
                "labels": list(one.said),
                "probabilities": {c.label: c.probability for c in one.labels[:top]},
                **({"cut": True} if one.cut else {}),
            }
            for text, one in zip(texts, found, strict=True)
        ],
        "sources": attributions(model),
    }


def show(model: Any, texts: Sequence[str], found: Sequence[Any], top: int | None) -> None:
    """Of one text every label with its probability; of several, a line each with what they are."""
    console = out()
    if len(found) == 1:
        made = table("label", "probability", right=("probability",))
        for chance in found[0].labels[:top]:
            made.add_row(f"  {visible(chance.label)}", f"{chance.probability:.1%}")
        console.print(made)
    else:
        made = table("text", "label", "probability", right=("probability",))
        for text, one in zip(texts, found, strict=True):
            shown = visible(" ".join(text.split()))
            label = visible(", ".join(one.said)) or "none"
            chance = one.labels[0].probability
            made.add_row(shown if len(shown) <= WIDTH else shown[: WIDTH - 1] + "…", label, f"{chance:.1%}")
        console.print(made)
    cut = sum(one.cut for one in found)
    if cut:
        err().print(f"note: of {cut:,} text{'s' * (cut > 1)} the beginning alone was read: longer than the model reads")
    if line := credit(model):
        err(style="dim", soft_wrap=True).print(line)
