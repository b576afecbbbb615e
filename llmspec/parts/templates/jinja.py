"""A model's own chat template, in Jinja (huggingface/transformers, "Chat templates")."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date as Date
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from llmspec.core import strict_json
from llmspec.core.problems import DataError, Problem
from llmspec.parts.base import Default
from llmspec.parts.templates.base import ChatTemplate, Marker, Segment, Turn
from llmspec.parts.templates.go_form import form_of
from llmspec.parts.templates.sandbox import SOURCE, TemplateRefusal, compiled, rendered
from llmspec.parts.tokenizers.base import Continuing, Following
from llmspec.parts.tokenizers.foreign_files import located, read_text
from llmspec.parts.tokenizers.special_tokens import NAMED, ChatRole, SpecialTokens

GUARD = "\udb7f"
"""Stands before what a text spells like a special token, while a template has it: no text holds half a pair."""
STAND_IN = re.compile("\udb7d([0-9]+)\udb7e")
"""What a turn's number looks like where the template was given that in place of its words."""
PROBE = (
    Turn("user", ("Is it?",)),
    Turn("assistant", ("It is.",)),
    Turn("user", ("And?",)),
    Turn("assistant", ("So.",)),
)
"""A dialogue that every template can write."""


class _Span(NamedTuple):
    """Where a role's words stand in a rendered text: characters begin … end - 1."""

    begin: int
    end: int
    role: ChatRole


class Jinja(ChatTemplate):
    """A template as models carry it, run in a sandbox: text, with special tokens where it spells them.

    Special tokens that a turn's words spell are only text. The assistant's words begin where the prompt for its answer
    ends, and go on to the special token that ends its turn.
    """

    kind: Literal["jinja"] = "jinja"
    relative: ClassVar[tuple[str, ...]] = ("file",)
    in_float64: ClassVar[tuple[str, ...]] = ("variables",)
    file: str | None = None
    """File of the template: chat_template.jinja, or tokenizer_config.json with a `chat_template`."""
    template: str | None = Field(None, max_length=SOURCE)
    """The template itself, in place of a file."""
    variables: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Values that the template reads by name, such as `enable_thinking: false`."""
    date: str | None = None
    """Today's date for templates that write it, such as 2024-07-26. If omitted, the day on which a prompt is asked; a
    phase that trains with such a template needs one."""

    @field_validator("date")
    @classmethod
    def _a_day(cls, date: str | None) -> str | None:
        if date is not None:
            try:
                Date.fromisoformat(date)
            except ValueError:
                raise ValueError(f"`{date}` is no date such as 2024-07-26") from None
        return date

    # -- from files ------------------------------------------------------------------------------------------------
    def opened(self, base: str) -> dict[str, Default]:
        if self.template is not None:
            compiled(self.template)
            return {}
        if self.file is None:
            raise DataError(
                Problem(
                    "a Jinja template is missing",
                    (),
                    "`file: chat_template.jinja` (or tokenizer_config.json), or `template:` with its text",
                )
            )
        text = read_template(base, self.file)
        compiled(text)
        return {"template": Default(text, f"the text of {self.file.rpartition('/')[2]}")}

    def identity(self) -> dict[str, Any]:
        # Where the file lies shapes nothing.
        return {key: value for key, value in super().identity().items() if self.template is None or key != "file"}

    def check(self, specials: SpecialTokens) -> Iterator[Problem]:
        try:
            list(self.render(specials, PROBE))
            _, asked = self._rendered(specials, PROBE, False)
        except DataError as error:
            yield from error.problems
            return
        if asked and self.date is None:
            yield Problem(
                "this chat template writes today's date",
                ("date",),
                f"`date: {Date.today().isoformat()}`, so that it is the same in training and afterwards",
                "dialogues of tomorrow would be others than those that were trained on",
            )

    def jinja(self, specials: SpecialTokens) -> str:
        if self.template is None:
            return ""
        # Other programs give no values of their own: those of `variables` go out with the template.
        given = "".join(f"{{% set {name} = {json.dumps(value)} %}}" for name, value in self.variables.items())
        return given + self.template

    def go(self, specials: SpecialTokens) -> str:
        if self.template is None:
            return ""
        from llmspec.parts.templates.jinja_words import writes_words

        if not writes_words(self.template):
            return ""
        spelled = {token: spelling for spelling, token in specials.items()}
        bos = spelled.get(specials.bos, "") if specials.bos is not None else ""

        def around(roles: Sequence[ChatRole], asks: bool) -> list[str] | None:
            try:
                text, _ = self._rendered(specials, [Turn(role, ()) for role in roles], asks, stand_in=True)
            except TemplateRefusal:
                return None
            first, *others = STAND_IN.split(text)
            numbers = [int(number) for number in others[::2]]
            return [first.removeprefix(bos), *others[1::2]] if numbers == [*range(len(roles))] else None

        found = form_of(around)
        return "" if found is None else found.go()

    # -- rendering ---------------------------------------------------------------------------------------------------
    def _rendered(
        self, specials: SpecialTokens, turns: Sequence[Turn], asks: bool, stand_in: bool = False
    ) -> tuple[str, bool]:
        """(the text of a dialogue, GUARD before what words spell; whether it wrote today's date). With `asks` up to
        the assistant's words; with `stand_in` each turn's number in place of its words."""
        if self.template is None:
            raise DataError("this chat template was not opened", "compile the spec that names it")
        guarded = _spelled(tuple(specials))
        messages = [
            {
                "role": turn.role,
                "content": f"\udb7d{i}\udb7e" if stand_in else "".join(_content(turn.content, guarded)),
            }
            for i, turn in enumerate(turns)
        ]
        spellings = {token: spelling for spelling, token in specials.items()}
        named = {
            f"{meaning}_token": spellings[token]
            for meaning in NAMED
            if (token := specials.find(meaning)) is not None and token in spellings
        }
        now = None if self.date is None else datetime.fromisoformat(self.date)
        given: dict[str, Any] = {"tools": None, "documents": None, **named, **self.variables}
        return rendered(self.template, {**given, "messages": messages, "add_generation_prompt": asks}, now)

    def render(self, specials: SpecialTokens, turns: Iterable[Turn]) -> Iterator[Segment]:
        """Raises TemplateRefusal where the template refuses the dialogue, or does not tell whose words are which."""
        turns = list(turns)
        text, _ = self._rendered(specials, turns, False)
        return iter(_segments(specials, text, self._spans(specials, turns, text, False)))

    def prompt(self, specials: SpecialTokens, turns: Iterable[Turn]) -> list[Segment]:
        turns = list(turns)
        text, _ = self._rendered(specials, turns, True)
        try:
            spans = self._spans(specials, turns, text, True)
        except TemplateRefusal:  # a question can be asked, even if nobody could train on it
            spans = []
        return _segments(specials, text, spans)

    def answer(self, specials: SpecialTokens) -> tuple[Segment, ...]:
        asked, _ = self._rendered(specials, PROBE[:1], True)
        plain, _ = self._rendered(specials, PROBE[:1], False)
        return tuple(_segments(specials, asked[len(plain) :], [], begins=False)) if asked.startswith(plain) else ()

    def end(self, specials: SpecialTokens) -> int | None:
        try:
            said = [segment.content for segment in self.render(specials, PROBE) if segment.role == "assistant"]
        except DataError:
            return None
        return said[-1] if said and isinstance(said[-1], int) else None

    # -- whose words -------------------------------------------------------------------------------------------------
    def _spans(self, specials: SpecialTokens, turns: Sequence[Turn], text: str, asks: bool) -> list[_Span]:
        """Where each turn's words stand in the rendered `text`. Raises TemplateRefusal where that cannot be told."""
        found = self._words(specials, turns, text, asks)
        pattern = _special(tuple(specials))
        spans = []
        for i, (turn, (begin, end)) in enumerate(zip(turns, found, strict=True)):
            if turn.role == "assistant":
                before, _ = self._rendered(specials, turns[:i], True) if i else ("", False)
                whole = i + 1 == len(turns) and not asks
                after = text if whole else self._rendered(specials, turns[: i + 1], False)[0]
                prefixes = text.startswith(before) and text.startswith(after)
                if not prefixes or not len(before) <= begin <= end <= len(after):
                    raise _ambiguous(i, turn, "what stands before it depends on what comes later")
                marks = [m.end() for m in pattern.finditer(after, end)]
                begin, end = len(before), marks[-1] if marks else len(after)
            elif mark := pattern.match(text, end):
                end = mark.end()
            spans.append(_Span(begin, end, turn.role))
        return spans

    def _words(self, specials: SpecialTokens, turns: Sequence[Turn], text: str, asks: bool) -> list[tuple[int, int]]:
        """(begin, end) of each turn's words alone: the text is what the template makes of the turns' numbers, with
        words in their places."""
        pieces = STAND_IN.split(self._rendered(specials, turns, asks, stand_in=True)[0])
        literals, numbers = pieces[::2], [int(number) for number in pieces[1::2]]
        if numbers != list(range(len(turns))):
            lost = next((i for i in range(len(turns)) if i not in numbers), 0)
            raise _ambiguous(lost, turns[lost], "the template does not write its words once, in their place")
        guarded, found, place = _spelled(tuple(specials)), [], 0
        for i, (turn, (before, after)) in enumerate(zip(turns, pairwise(literals), strict=True)):
            said = "".join(_content(turn.content, guarded))
            begin = place + len(before)
            ends = i + 1 == len(turns)
            fits = next(
                (
                    form
                    for form in dict.fromkeys((said, said.strip(), said.lstrip(), said.rstrip()))
                    if text.startswith(before + form + after, place)
                    and (not ends or place + len(before + form + after) == len(text))
                ),
                None,
            )
            if fits is None:
                raise _ambiguous(i, turn, "the template does not write its words as they are")
            place = begin + len(fits)
            found.append((begin, place))
        return found


def _ambiguous(number: int, turn: Turn, why: str) -> TemplateRefusal:
    return TemplateRefusal(
        f"whose words are which cannot be told of turn {number + 1} ({turn.role}): {why}",
        "take a template that writes every turn as it is, in training at least",
        "other words than the assistant's would be learned, or not all of them",
    )


def read_template(base: str, name: str) -> str:
    """The template of a file: its text, or the `chat_template` of a JSON file. Raises DataError."""
    path = located(base, name)
    text = read_text(path)
    if path.suffix != ".json":
        return text
    try:
        found = strict_json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    value = found.get("chat_template") if isinstance(found, Mapping) else None
    if isinstance(value, list):  # several by name
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, Mapping)}
        value = named.get("default")
    if not isinstance(value, str):
        raise DataError(f"{path} has no `chat_template`", "name the file of the template, or write it as `template:`")
    return value


# -- special tokens in texts -------------------------------------------------------------------------------------------
@lru_cache(maxsize=16)
def _special(spellings: tuple[str, ...]) -> re.Pattern[str]:
    """A special token as the template spells it, the longest where several begin."""
    tokens = sorted(filter(None, spellings), key=len, reverse=True)
    return re.compile(f"(?<!{GUARD})(?:{'|'.join(map(re.escape, tokens))})" if tokens else r"(?!)")


@lru_cache(maxsize=16)
def _spelled(spellings: tuple[str, ...]) -> re.Pattern[str]:
    """A place at which a text spells one."""
    tokens = sorted(filter(None, spellings), key=len, reverse=True)
    return re.compile(f"(?={'|'.join(map(re.escape, tokens))})" if tokens else r"(?!)")


def _content(pieces: Sequence[str], spelled: re.Pattern[str]) -> Iterator[str]:
    """A turn's words as the template is given them: markers as they are, GUARD before what texts spell."""
    for piece in pieces:
        yield str(piece) if isinstance(piece, Marker) else spelled.sub(GUARD, piece)


def _segments(specials: SpecialTokens, text: str, spans: Sequence[_Span], begins: bool = True) -> list[Segment]:
    """A rendered text as special tokens and stretches of text, cut where the assistant's words begin and end, and
    where another's begin on a line of their own.

    A stretch that holds a role's words is that role's, with what stands around them in it.
    """
    cuts = set[int]()
    for span in spans:
        if span.role == "assistant":
            cuts |= {span.begin, span.end}
        elif text[span.begin - 1 : span.begin] == "\n" and not text[span.begin : span.begin + 1].isspace():
            cuts.add(span.begin)
    found, place = list[Segment](), 0

    def stretch(end: int) -> None:
        nonlocal place
        kind: type[str] = str if begins and not found else Following
        for border in (*sorted(cut for cut in cuts if place < cut < end), end):
            if piece := text[place:border].replace(GUARD, ""):
                found.append(Segment(kind(piece), _role(spans, place, border)))
                kind = Continuing
            place = border

    for mark in _special(tuple(specials)).finditer(text):
        stretch(mark.start())
        found.append(Segment(specials[mark[0]], _role(spans, mark.start(), mark.end())))
        place = mark.end()
    stretch(len(text))
    return found


def _role(spans: Sequence[_Span], begin: int, end: int) -> ChatRole | None:
    return next((span.role for span in spans if span.begin < end and begin < span.end), None)
