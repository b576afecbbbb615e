"""Formats of records that are recognised by the names of their fields, as a table: dialogues, documents of one text.

Used where a source writes neither `text:` nor `dialogue:` nor `messages:`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from llmspec.parts.tokenizers.special_tokens import ROLES, ChatRole


class Format(NamedTuple):
    """A kind of record that is a dialogue: by templates of its fields, or by fields that list messages."""

    name: str
    needs: tuple[str, ...] = ()
    """Fields that every such record has."""
    turns: tuple[tuple[ChatRole, str], ...] = ()
    """(role, template); fields that a record has not are empty."""
    lists: tuple[str, ...] = ()
    """Fields that every such record has, each a list of messages (or one as JSON text); they follow one another."""
    history: str = ""
    """Field that may hold earlier rounds, as a list of (user, assistant) pairs."""


def _asked(name: str, user: str, assistant: str, **more: Any) -> Format:
    system, below = more.get("system", "system"), more.get("below", "")
    question = f"{{{user}}}\n{{{below}}}" if below else f"{{{user}}}"
    turns: tuple[tuple[ChatRole, str], ...] = (
        ("system", f"{{{system}}}"),
        ("user", question),
        ("assistant", f"{{{assistant}}}"),
    )
    return Format(name, (user, assistant), turns, history=more.get("history", ""))


FORMATS: tuple[Format, ...] = (
    Format("messages", lists=("messages",)),
    Format("ShareGPT", lists=("conversations",)),
    Format("ShareGPT", lists=("conversation",)),
    _asked("Alpaca", "instruction", "output", below="input", history="history"),
    _asked("Dolly", "instruction", "response", below="context"),
    Format("prompt and completion", lists=("prompt", "completion")),
    _asked("prompt and completion", "prompt", "completion"),
    _asked("prompt and response", "prompt", "response"),
    _asked("question and response", "question", "response", system="system_prompt"),
    _asked("question and answer", "question", "answer"),
)
"""In the order in which they are tried."""

PROMPTS: tuple[Format, ...] = (
    Format("prompt", lists=("prompt",)),
    Format("prompt", ("prompt",), (("system", "{system}"), ("user", "{prompt}"))),
)
"""Those that ask something without an answer to it, for phases that draw answers; tried where a record is none of the
above. What stands beside the prompt is for rewards."""

TEXTS = ("text", "content")
"""Fields that are a record's whole text, where it has one of them."""

MESSAGE_KEYS = (("role", "content"), ("from", "value"))
"""Keys of a message: who says it, and what; OpenAI's and ShareGPT's."""
ALIASES: dict[str, ChatRole] = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    **{role: role for role in ROLES},
}
"""How roles are written in the formats above -> the role."""


def recognised(record: Mapping[str, Any]) -> Format | None:
    """The first format of the table that a record has, or None."""
    return next((form for form in FORMATS if _fits(form, record)), None)


def recognised_prompt(record: Mapping[str, Any]) -> Format | None:
    """The first format of PROMPTS that a record has, where it is no dialogue; or None."""
    if recognised(record) is not None:
        return None
    return next((form for form in PROMPTS if _fits(form, record) and record.get("prompt") is not None), None)


def text_field(record: Mapping[str, Any]) -> str | None:
    """The field that is a record's whole text, or None."""
    return next((name for name in TEXTS if name in record and _scalar(record[name])), None)


def is_metadata(name: str, value: Any) -> bool:
    """Whether a field says where a text comes from instead of being one.

    These are: a value that is nothing but a URL; a single word in a field that is named as an identifier; a date or
    time in a field that is named as one. A field `date` that holds a sentence is text.
    """
    value = value.strip() if isinstance(value, str) else str(value)
    if _URL.fullmatch(value):
        return True
    if not re.search(r"\s", value) and _ID_NAME.fullmatch(name):
        return True
    return bool(_DATE_NAME.fullmatch(name) and _DATE.fullmatch(value))


_URL = re.compile(r"(?i:https?|ftp)://\S+|www\.\S+\.\S+")
_ID_NAME = re.compile(
    r"(?:.*[_.\- ])?(?i:id|uid|uuid|guid|hash|sha1|sha256|md5|url|uri|doi|isbn|slug)"
    r"|.*[a-z](?:Id|ID)"
)
_DATE_NAME = re.compile(
    r"(?:.*[_.\- ])?(?i:date|time|timestamp|datetime|year|created|updated|modified|published)"
    r"(?:[_.\- ].*)?|.*_at|.*[a-z](?:At|Date|Time)"
)
_DATE = re.compile(
    r"[\d\s:./,+TZ-]*\d[\d\s:./,+TZ-]*(?:UTC|GMT|AM|PM|am|pm)?"
    r"|(?:[A-Za-z]{3,9},? )?\d{1,2} [A-Za-z]{3,9} \d{4}[\d: +A-Z-]*"
    r"|[A-Za-z]{3,9} \d{1,2},? \d{4}[\d:, +A-Z-]*"
)


def _fits(form: Format, record: Mapping[str, Any]) -> bool:
    return all(lists_messages(record.get(name)) for name in form.lists) and all(name in record for name in form.needs)


def lists_messages(value: Any) -> bool:
    """Whether a value is a list of messages, or text that spells one."""
    if isinstance(value, str):  # a list that a table holds as text
        return bool(re.match(r"\s*\[\s*\{", value))
    return isinstance(value, list | tuple) and (not value or isinstance(value[0], dict))


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
