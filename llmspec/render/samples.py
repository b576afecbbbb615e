"""Text as it is drawn, and what it is made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from llmspec.core.units import duration


def attributions(model: Any) -> list[dict[str, str]]:
    """Licence and attribution of each source the model has read."""
    return [{"source": s.name, "license": s.source.license, "attribution": s.source.attribution}
            for s in model.plan.sources if s.source.license or s.source.attribution]


def credit(model: Any) -> str:
    """One line that names the sources."""
    parts = [f"{a['source']} ({', '.join(x for x in (a['license'], a['attribution']) if x)})" for a in
             attributions(model)]
    return "learned from " + ", ".join(parts) if parts else ""


def as_data(model: Any, prompt: str, answers: list[Any]) -> dict[str, Any]:
    """JSON-able form of the answers to a prompt."""
    return {
        "model": model.plan.name, "phase": model.phase, "chat": model.chat, "prompt": prompt,
        "answers": [{
            "text": a.text, "finish_reason": a.finish_reason, "tokens": a.tokens,
            "logprobs": [c.logprob for c in a.choices],
        } for a in answers],
        "sources": attributions(model),
    }


def show(model: Any, prompt: str, events: Iterator[Any], n: int, chat: bool) -> None:
    """Streams one answer as it is drawn; several answers one after the other, each when it is whole."""
    import time

    console = Console(highlight=False, soft_wrap=True)
    began, tokens = time.perf_counter(), 0
    first = began
    texts, ends = [""] * n, [""] * n
    if not chat and prompt:
        console.print(prompt, end="", style="bold", markup=False)
    for event in events:
        first = time.perf_counter() if not tokens else first
        tokens += 1
        texts[event.row] += event.text
        ends[event.row] = event.finish_reason or ends[event.row]
        if n == 1:
            console.print(event.text, end="", markup=False)
    if n == 1:
        console.print()
    else:
        for row, text in enumerate(texts):
            console.rule(f"{row + 1} of {n}", align="left", style="dim")
            console.print(text, markup=False)
    seconds = time.perf_counter() - first
    speed = f"{(tokens - 1) / seconds:.0f} tokens/s, " if tokens > 1 and seconds > 0 else ""
    reasons = ", ".join(dict.fromkeys(ends))
    notes = Console(stderr=True, highlight=False, style="dim", soft_wrap=True)
    notes.print(f"[{tokens} tokens, {speed}first after {duration(first - began)}, ended by {reasons}]", markup=False)
    if line := credit(model):
        notes.print(line, markup=False)
