"""`llmspec sample --classify` with a model that gives words tags."""

from __future__ import annotations

from typing import Any

from llmspec.core.problems import LlmspecError


def told(model: Any, texts: list[Any], top: int | None, as_json: bool) -> Any:
    """The tags of the words of texts, which are split at white space, or are lists of words: printed, or as JSON-able
    data."""
    from llmspec.cli.opening import tell_unknown
    from llmspec.render import tags
    from llmspec.render.waiting import waiting

    if not all("".join(text).strip() for text in texts):
        raise LlmspecError("the prompt is empty", "--prompt 'She lives in Rome.'", "it has no words to tag")
    if len(texts) == 1:
        tell_unknown(model, texts[0] if isinstance(texts[0], str) else " ".join(texts[0]))
    with waiting(f"tagging {len(texts):,} text{'s' * (len(texts) > 1)}", lines=True) as say:
        found = model.tag_batch(texts, progress=lambda n, of: say(f"tagging: {n:,} of {of:,} texts"))
    return tags.as_data(model, found, top) if as_json else tags.show(model, found, top)
