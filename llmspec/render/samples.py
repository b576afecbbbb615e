"""Text as it is drawn, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llmspec.render.pace import Pace
from llmspec.render.terminal import err, out
from llmspec.render.waiting import waiting


def attributions(model: Any) -> list[dict[str, str]]:
    """Licence and attribution of each source the model has read."""
    return [
        {"source": a.source, "license": a.license, "attribution": a.attribution}
        for a in model.attributions
        if a.license or a.attribution
    ]


def credit(model: Any) -> str:
    """One line that names the sources."""
    parts = [
        f"{a['source']} ({', '.join(x for x in (a['license'], a['attribution']) if x)})" for a in attributions(model)
    ]
    return "trained on " + ", ".join(parts) if parts else ""


def as_data(model: Any, prompt: str, answers: list[Any]) -> dict[str, Any]:
    """JSON-able form of the answers to a prompt."""
    return {
        "model": model.plan.name,
        "phase": model.phase,
        "chat": model.chat,
        "prompt": prompt,
        "answers": [answer_data(a) for a in answers],
        "sources": attributions(model),
    }


def answer_data(answer: Any) -> dict[str, Any]:
    """JSON-able form of an answer."""
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "tokens": answer.tokens,
        "logprobs": [c.logprob for c in answer.choices],
    }


def show(
    model: Any,
    prompt: str,
    events: Iterator[Any],
    n: int,
    chat: bool,
    measured: Callable[[Any, int, float], str] = lambda model, tokens, seconds: "",
) -> None:
    """Streams one answer as it is drawn; several answers one after the other, each when it is whole. `measured` is told
    of one answer the tokens whose speed is known and the seconds that they took, and may say what that means."""
    console, pace = out(), Pace(n)
    texts, ends = [""] * n, [""] * n
    events = waited(events)  # before the prompt is written: the line of what takes long would wipe it away
    if not chat and n == 1:
        console.write(prompt, "bold")
    for event in events:
        pace.token()
        texts[event.row] += event.text
        ends[event.row] = event.finish_reason or ends[event.row]
        if n == 1:
            console.write(event.text)
    if n == 1:
        console.write("\n")
    else:
        for row, text in enumerate(texts):
            console.rule(f"{row + 1} of {n}", align="left", style="dim")
            if not chat:
                console.write(prompt, "bold")
            console.write(text + "\n")
    means = measured(model, *pace.counted) if n == 1 and pace.counted[0] else ""
    reasons = ", ".join(dict.fromkeys(ends))
    notes = err(style="dim", soft_wrap=True)
    notes.print(f"[{pace.told(means)}, ended by {reasons}]")
    if line := credit(model):
        notes.print(line)


def waited(events: Iterator[Any], doing: str = "compiling the first tokens' kernels") -> Iterator[Any]:
    """The events, once the first of them has come; with a word on standard error while that takes long."""
    from itertools import chain

    with waiting(doing):
        first = next(events, None)
    return events if first is None else chain([first], events)
