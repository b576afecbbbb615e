"""`llmspec sample --classify`: the labels of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmspec.core.problems import LlmspecError, Problem
from llmspec.decoding.prompt_file import FilePrompt


def texts_of(prompts: Sequence[FilePrompt]) -> list[Any]:
    """The texts of a file's prompts, or their words where the file tells these. Raises LlmspecError naming every line
    that is a dialogue."""
    problems = [
        Problem("a dialogue has no label: only texts have", hint='{"prompt": "…"} in its place', mark=given.mark)
        for given in prompts
        if given.text is None
    ]
    if problems:
        raise LlmspecError(problems)
    return [given.words or given.text or "" for given in prompts]


def told(model: Any, texts: list[Any], top: int | None, as_json: bool) -> Any:
    """The labels of texts, or of their words, or numbers of them, whichever the model gives: printed, or as JSON-able
    data. Raises LlmspecError where the model tells none of these."""
    from llmspec.cli import numbers, tags
    from llmspec.cli.opening import tell_unknown
    from llmspec.render import classified
    from llmspec.render.waiting import waiting

    if model.tags_words:
        return tags.told(model, texts, top, as_json)
    texts = [text if isinstance(text, str) else " ".join(text) for text in texts]
    if model.tells_numbers:
        return numbers.told(model, texts, as_json)
    if not all(text.strip() for text in texts):
        raise LlmspecError("the prompt is empty", "--prompt 'A small film with a big heart.'", "it has no label")
    if len(texts) == 1:
        tell_unknown(model, texts[0])
    with waiting(f"classifying {len(texts):,} text{'s' * (len(texts) > 1)}", lines=True) as say:
        found = model.classify_batch(texts, progress=lambda n, of: say(f"classifying: {n:,} of {of:,} texts"))
    return classified.as_data(model, texts, found, top) if as_json else classified.show(model, texts, found, top)
