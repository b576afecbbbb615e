"""Sources that name a task's template: found, filled with what they say, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmspec.core.problems import Problem, nearest, one_of
from llmspec.parts.task_templates import BUILT_IN, fields_of_template, with_fields
from llmspec.spec.messages import shown
from llmspec.spec.yaml12 import Tree


def check_templates(tree: Tree) -> Iterator[Problem]:
    """Problems of names: templates that are nowhere, and places that a template does not have."""
    own = _map(tree.data, "templates")
    known = {**BUILT_IN, **{name: turns for name, turns in own.items() if isinstance(turns, Mapping)}}
    for name, source in _map(_map(tree.data, "data"), "sources").items():
        path = ("data", "sources", name)
        if not isinstance(source, Mapping) or not isinstance(chosen := source.get("template"), str):
            continue
        if chosen not in known:
            near = nearest(chosen, list(known))
            yield Problem(
                f"no template is called `{shown(chosen)}`",
                (*path, "template"),
                f"did you mean `{near}`?" if near else f"there are {', '.join(known)}, and what stands in `templates:`",
                "it would be unclear how its records are read",
            )
            continue
        try:
            places = fields_of_template(known[chosen])
            turns = with_fields(known[chosen], _map(source, "template_fields"))
        except (ValueError, AttributeError, TypeError):  # told where it stands
            continue
        for field in _map(source, "template_fields"):
            if field not in places:
                yield Problem(
                    f"the template {chosen} has no place `{{{shown(field)}}}`",
                    (*path, "template_fields", field),
                    one_of(str(field), list(places)),
                    "it would be ignored",
                )
        if (other := next((key for key in ("messages", "source") if source.get(key) is not None), "")) or (
            source.get("dialogue") is not None and source["dialogue"] != turns
        ):
            yield Problem(
                f"`template:` and `{other or 'dialogue'}:` both say how a record is a dialogue",
                (*path, "template"),
                "keep one of them",
            )


def _map(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
