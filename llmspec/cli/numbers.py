"""`llmspec sample` with a model that gives texts numbers."""

from __future__ import annotations

from typing import Any

from llmspec.core.problems import LlmspecError


def told(model: Any, texts: list[str], as_json: bool) -> Any:
    """The numbers of texts: printed, or as JSON-able data."""
    from llmspec.cli.opening import tell_unknown
    from llmspec.render import numbers
    from llmspec.render.waiting import waiting

    if not all(text.strip() for text in texts):
        raise LlmspecError("the prompt is empty", "--prompt 'A small film with a big heart.'", "it has no number")
    if len(texts) == 1:
        tell_unknown(model, texts[0])
    with waiting(f"reading {len(texts):,} text{'s' * (len(texts) > 1)}", lines=True) as say:
        found = model.predict_batch(texts, progress=lambda n, of: say(f"reading: {n:,} of {of:,} texts"))
    return numbers.as_data(model, texts, found) if as_json else numbers.show(model, texts, found)
