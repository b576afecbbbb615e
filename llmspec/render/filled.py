"""Texts whose masked places a model has filled, and what else it would have put there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmspec.core.visible import visible
from llmspec.decoding.filling import listed
from llmspec.render.report_shared import table
from llmspec.render.samples import attributions, credit
from llmspec.render.terminal import err, out


def as_data(model: Any, prompt: str, found: Any) -> dict[str, Any]:
    """JSON-able form."""
    return {
        "model": model.plan.name,
        "phase": model.phase,
        "prompt": prompt,
        "text": found.text,
        "places": [[dict(vars(candidate)) for candidate in place] for place in found.places],
        "sources": attributions(model),
    }


def show(model: Any, found: Any) -> None:
    """The text with the best token everywhere, then the candidates of each place."""
    console = out()
    console.write(found.text + "\n", "bold")
    for number, place in enumerate(found.places, 1):
        made = table(f"[MASK] {number}" if len(found.places) > 1 else "[MASK]", "probability", right=("probability",))
        for candidate in place:
            shown = visible(candidate.text.strip()) or repr(candidate.text)
            made.add_row(f"  {shown}", f"{candidate.probability:.1%}")
        console.print(made)
    if line := credit(model):
        err(style="dim", soft_wrap=True).print(line)


def spans_as_data(model: Any, prompt: str, found: Any) -> dict[str, Any]:
    """JSON-able form of texts at whose places a model has said what is left out."""
    return {
        "model": model.plan.name,
        "phase": model.phase,
        "prompt": prompt,
        "answers": [{**vars(one), "spans": list(one.spans)} for one in found],
        "sources": attributions(model),
    }


def show_spans(model: Any, found: Any) -> None:
    """Each text with what is said at its places, then that alone."""
    console = out()
    for one in found:
        console.write(one.text + "\n", "bold")
        made = table("place", "filled in")
        for number, span in enumerate(one.spans):
            made.add_row(f"  <extra_id_{number}>", visible(span.strip()) or "(nothing)")
        console.print(made)
    if line := credit(model):
        err(style="dim", soft_wrap=True).print(line)


def show_lines(model: Any, found: Iterable[Any]) -> None:
    """Each text with the best token everywhere, as soon as it is filled, and the candidates of its places below."""
    console = out()
    for one in found:
        console.write(one.text + "\n", "bold")
        console.write("  " + visible(" | ".join(listed(place) for place in one.places)) + "\n")
    if line := credit(model):
        err(style="dim", soft_wrap=True).print(line)


def show_span_lines(model: Any, found: Iterable[Any]) -> None:
    """Each text with what is said at its places, as soon as it is, and that alone below."""
    console = out()
    for one in found:
        console.write(one.text + "\n", "bold")
        console.write("  " + visible(" | ".join(span.strip() for span in one.spans)) + "\n")
    if line := credit(model):
        err(style="dim", soft_wrap=True).print(line)
