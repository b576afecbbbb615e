"""Words with the tags that a model has given them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmspec.core.visible import visible
from llmspec.render.report_shared import table
from llmspec.render.samples import attributions, credit
from llmspec.render.terminal import err, out


def as_data(model: Any, found: Sequence[Any], top: int | None) -> dict[str, Any]:
    """JSON-able form."""
    return {
        "model": model.plan.name,
        "phase": model.phase,
        "texts": [
            {
                "tokens": [word.word for word in one.words],
                "tags": [word.tag or None for word in one.words],
                "probabilities": [{c.label: c.probability for c in word.labels[:top]} for word in one.words],
                "entities": [{"type": e.kind, "text": e.text, "first": e.first, "last": e.last} for e in one.entities],
                **({"cut": True} if one.cut else {}),
            }
            for one in found
        ],
        "sources": attributions(model),
    }


def show(model: Any, found: Sequence[Any], top: int | None) -> None:
    """A line a word, with its tag and how probable that is, and with `--top` what else it might be; a line between
    texts."""
    console, others = out(), max(0, (top or 1) - 1)
    columns = ("word", "tag", "probability", *(("else",) if others else ()))
    for i, one in enumerate(found):
        if i:
            console.print()
        made = table(*columns, right=("probability",))
        for word in one.words:
            more = ", ".join(f"{visible(c.label)} {c.probability:.1%}" for c in word.labels[1 : 1 + others])
            said = (visible(word.tag), f"{word.probability:.1%}") if word.labels else ("", "not read")
            made.add_row(f"  {visible(word.word)}", *said, *((more,) if others else ()))
        console.print(made)
    if cut := sum(one.cut for one in found):
        err().print(f"note: of {cut:,} text{'s' * (cut > 1)} the beginning alone was read: longer than the model reads")
    if line := credit(model):
        err(style="dim", soft_wrap=True).print(line)
