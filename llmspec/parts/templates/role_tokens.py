"""A special token begins each turn, one for each role, and another ends it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Literal

from llmspec.parts.templates.base import ChatTemplate, Segment, Turn
from llmspec.parts.templates.go_text import literal
from llmspec.parts.tokenizers.special_tokens import ROLES, ChatRole, SpecialTokens


class RoleTokens(ChatTemplate):
    """`<|end|> <|user|> text <|end_of_turn|> <|assistant|> text <|end_of_turn|>`, with nothing between the tokens.

    What a text spells is only text, so that nobody's words can begin a turn of somebody else.
    """

    kind: Literal["role_tokens"] = "role_tokens"
    needs: ClassVar[tuple[str, ...]] = ("bos", "turn_end", *ROLES)

    def render(self, specials: SpecialTokens, turns: Iterable[Turn]) -> Iterator[Segment]:
        end = specials.need("turn_end")
        yield Segment(specials.need("bos"))
        for role, content in turns:
            yield Segment(specials.need(role))
            for piece in content:
                yield Segment(piece, role)
            yield Segment(end, role)

    def jinja(self, specials: SpecialTokens) -> str:
        if any(specials.find(meaning) is None for meaning in self.needs):
            return ""
        spelled = {i: json.dumps(text) for text, i in specials.items()}
        begin, end = spelled[specials.need("bos")], spelled[specials.need("turn_end")]
        turns = "".join(
            f"{{%- {'if' if i == 0 else 'elif'} message['role'] == {json.dumps(role)} -%}}"
            f"{{{{- {spelled[specials.need(role)]} -}}}}"
            for i, role in enumerate(ROLES)
        )
        return (
            f"{{{{- {begin} -}}}}{{%- for message in messages -%}}{turns}{{%- endif -%}}"
            f"{{{{- message['content'] + {end} -}}}}{{%- endfor -%}}"
            f"{{%- if add_generation_prompt -%}}{{{{- {spelled[specials.need('assistant')]} -}}}}{{%- endif -%}}"
        )

    def go(self, specials: SpecialTokens) -> str:
        if any(specials.find(meaning) is None for meaning in self.needs):
            return ""
        spelled = {i: literal(text) for text, i in specials.items()}
        end, own = spelled[specials.need("turn_end")], {role: spelled[specials.need(role)] for role in ROLES}
        turns = "".join(
            f'{{{{ {"if" if i == 0 else "else if"} eq .Role "{role}" }}}}{token}'
            for i, (role, token) in enumerate(own.items())
        )
        return f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ .Content }}}}{end}{{{{ end }}}}{own['assistant']}"

    def answer(self, specials: SpecialTokens) -> tuple[Segment, ...]:
        return (Segment(specials.need("assistant")),)

    def first(self, specials: SpecialTokens) -> int | None:
        return specials.bos

    def speakers(self, specials: SpecialTokens, tokens: Sequence[int]) -> list[ChatRole | None] | None:
        roles: dict[int, ChatRole] = {token: role for role, token in specials.roles.items()}
        silent = {specials.bos, specials.turn_end}
        speaker: ChatRole | None = None
        found: list[ChatRole | None] = []
        for token in tokens:
            speaker = None if token in silent else roles.get(token, speaker)
            found.append(speaker)
        return found
