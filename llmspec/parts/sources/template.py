"""Templates such as `What is {title}?`: literal text and the fields of a record, nothing else."""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Piece(NamedTuple):
    """A stretch of a template: literal text, or the name of a field."""

    text: str
    field: bool


def parse(template: str) -> tuple[Piece, ...]:
    """The pieces of a template; `{{` and `}}` are braces. No attributes, no formats: a name is only a name.

    Raises:
        ValueError: a brace has no partner, or a field no name.
    """
    pieces: list[Piece] = []
    literal, done = "", 0
    for match in _TOKEN.finditer(template):
        literal += template[done : match.start()]
        done = match.end()
        found = match[0]
        if found in ("{{", "}}"):
            literal += found[0]
        elif match[1] is None:
            raise ValueError(f"`{found}` has no partner in `{template}`; a literal brace is written twice")
        elif not match[1].strip():
            raise ValueError(f"a field without a name in `{template}`; write `{{name}}`")
        else:
            pieces += [Piece(literal, False)] if literal else []
            pieces.append(Piece(match[1].strip(), True))
            literal = ""
    literal += template[done:]
    return (*pieces, Piece(literal, False)) if literal else tuple(pieces)
