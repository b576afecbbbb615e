"""Tasks as dialogues: what is asked and what is answered, with places for a record's fields. Sources name them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from llmspec.parts.sources.template import Piece, parse

if TYPE_CHECKING:
    from llmspec.parts.sources import Source
    from llmspec.parts.tokenizers.special_tokens import ChatRole

TaskTemplate = Mapping["ChatRole", str]
"""Role -> template of its turn, in the order of the turns."""

BUILT_IN: Mapping[str, TaskTemplate] = MappingProxyType(
    {
        "summarise": {"user": "Summarise this text in one or two sentences.\n\n{text}", "assistant": "{summary}"},
        "translate": {"user": "Translate into {language}.\n\n{text}", "assistant": "{translation}"},
        "classify": {
            "user": "Which of these fits the text best: {labels}? Answer with one of them alone.\n\n{text}",
            "assistant": "{label}",
        },
        "continue": {"user": "Continue this text.\n\n{text}", "assistant": "{continuation}"},
    }
)
"""Templates that every spec has; one of the same name in `templates:` stands for it."""


def fields_of_template(template: TaskTemplate) -> tuple[str, ...]:
    """The places of a template, in their order."""
    return tuple(dict.fromkeys(p.text for turn in template.values() for p in parse(turn) if p.field))


def with_fields(template: TaskTemplate, fields: Mapping[str, str]) -> dict[ChatRole, str]:
    """A template whose places are filled with templates of a record; others are the record's fields of that name."""
    return {role: "".join(_written(piece, fields) for piece in parse(turn)) for role, turn in template.items()}


def with_dialogues(sources: Mapping[str, Source], templates: Mapping[str, TaskTemplate]) -> dict[str, Source]:
    """The sources; those that name a template with its turns as their dialogue."""
    known = {**BUILT_IN, **templates}
    return {
        name: source
        if source.template is None or source.template not in known or source.dialogue is not None
        else source.model_copy(update={"dialogue": with_fields(known[source.template], source.template_fields)})
        for name, source in sources.items()
    }


def _written(piece: Piece, fields: Mapping[str, str]) -> str:
    if piece.field:
        return fields.get(piece.text, f"{{{piece.text}}}")
    return piece.text.replace("{", "{{").replace("}", "}}")
