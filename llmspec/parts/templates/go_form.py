"""A chat template as Go's, where what it writes around a turn's words follows from the turn's role and place alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise, product
from typing import NamedTuple

from llmspec.parts.templates.go_text import literal
from llmspec.parts.tokenizers.special_tokens import ROLES, ChatRole

LONGEST = 4
"""Turns of the dialogues that a form is compared on, at most."""
Around = Callable[[Sequence[ChatRole], bool], Sequence[str] | None]
"""(roles of a dialogue, whether an answer is asked for) -> what is written before its first turn's words, between the
words of two, and behind the last; None where it is refused."""


class Form(NamedTuple):
    """What stands around the words of a dialogue."""

    around: Mapping[ChatRole, tuple[str, str]]
    """Role -> what stands before and behind its words."""
    begins: str
    """What stands before a dialogue that begins with `system`."""
    alone: str
    """What stands before one that begins in another way, such as a system turn that nobody gave."""
    answer: str
    """What asks for an answer."""

    def of(self, roles: Sequence[ChatRole]) -> list[str]:
        """What is written around the words of a dialogue that asks for an answer, as `Around` gives it."""
        found = [self.begins if roles[0] == "system" else self.alone]
        for role in roles:
            before, behind = self.around[role]
            found[-1] += before
            found.append(behind)
        found[-1] += self.answer
        return found

    def go(self) -> str:
        """The template; every piece of text of it is one literal, with what it stands beside."""
        turns = "".join(
            f'{{{{ {"if" if i == 0 else "else if"} eq .Role "{role}" }}}}{literal(before)}{{{{ .Content }}}}'
            f"{literal(behind)}"
            for i, (role, (before, behind)) in enumerate(self.around.items())
        )
        begin = literal(self.alone)
        if self.begins != self.alone:
            begin = f"{literal(self.begins)}{{{{ else }}}}{begin}"
            begin = f'{{{{ if eq (index .Messages 0).Role "system" }}}}{begin}{{{{ end }}}}'
        return f"{begin}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}{literal(self.answer)}"


def form_of(around: Around) -> Form | None:
    """The form of a template that writes all dialogues in one, also those that no phase trains on; None where it has
    none, or refuses some, which Go's language cannot.

    Turns of one role do not follow each other: Ollama joins those before a template sees them."""
    for roles in (ROLES, tuple(role for role in ROLES if role != "developer")):
        found = _guessed(around, roles)
        if found and all(found.of(dialogue) == around(dialogue, True) for dialogue in _dialogues(roles)):
            return found
    return None


def _dialogues(roles: Sequence[ChatRole]) -> Iterator[tuple[ChatRole, ...]]:
    for turns in range(1, LONGEST + 1):
        for dialogue in product(roles, repeat=turns):
            if all(a != b for a, b in pairwise(dialogue)):
                yield dialogue


def _guessed(around: Around, roles: Sequence[ChatRole]) -> Form | None:
    """The only form that fits some dialogues, if one does."""
    user, asked = around(("user",), False), around(("user",), True)
    if user is None or asked is None or not asked[-1].startswith(user[-1]):
        return None
    found: dict[ChatRole, tuple[str, str]] = {}
    for role in (each for each in roles if each != "user"):
        between = around(("user", role, "user"), False)
        whole = around(("user", role), False)
        if between is None or whole is None:
            return None
        found[role] = between[1].removeprefix(user[-1]), whole[-1]
        found["user"] = between[2].removeprefix(whole[-1]), user[-1]
    system = around(("system", "user"), False)
    if system is None:
        return None
    begins, alone = system[0].removesuffix(found["system"][0]), user[0].removesuffix(found["user"][0])
    return Form(found, begins, alone, asked[-1].removeprefix(user[-1]))
