"""The pass that opens files of others which a spec names: tokenizers, chat templates. What a plan needs of them is in
the plan afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmspec.compiler.draft import Draft, closed, open_keys
from llmspec.core.problems import DataError
from llmspec.parts.base import Default


def open_files(draft: Draft) -> Draft:
    """Keys of the tokenizer, and of the chat template, that follow from files get their values."""
    for name in ("tokenizer", "chat_template"):
        part: Any = getattr(draft.sections, name)
        changes: dict[str, Any] = {}
        if part is None:
            continue
        try:
            defaults = part.opened(draft.base)
        except DataError as error:
            # What hangs on the part is not looked at.
            draft, changes[name] = draft.with_problems(p.at(name) for p in error.problems), None
        else:
            draft = replace(draft, decisions=draft.decided(name, open_keys(part, defaults)))
            changes[name] = closed(part, defaults)
        draft = replace(draft, sections=replace(draft.sections, **changes))
    return _end_of_turn(draft)


def _end_of_turn(draft: Draft) -> Draft:
    """The tokenizer names the token that ends turns in the form of the chat template, so that answers end there."""
    tokenizer, template = draft.sections.tokenizer, draft.sections.chat_template
    if tokenizer is None or template is None:
        return draft
    found: Any = tokenizer.ending(draft.base, template.end)
    if found is tokenizer:
        return draft
    why = f"what ends the assistant's turns in the {template.kind} template"
    decided = draft.decided("tokenizer", {"turn_end": Default(found.turn_end, why)})
    return replace(draft, sections=replace(draft.sections, tokenizer=found), decisions=decided)
