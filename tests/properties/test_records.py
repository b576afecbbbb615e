"""Every record that is read is learned from, or counted under exactly one reason; formats are recognised and said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import FORMATS, SPOILED, dropped_for, record
from test_sources import cache, plan_of, source  # noqa: F401

from llmspec.data.formats import is_metadata, recognised
from llmspec.data.recognition import found_in
from llmspec.data.shaping import (
    EMPTY,
    FORMAT,
    NOT_TEXT,
    ROLE,
    UNREADABLE,
    Dropped,
    Turn,
    dialogue,
    fill,
    plain_text,
)
from llmspec.parts.sources import Document

REASONS = {EMPTY, ROLE, NOT_TEXT, UNREADABLE, FORMAT}
AUTO = source("files", path="x")
FORM, HOW = st.sampled_from(list(FORMATS)), st.sampled_from(list(SPOILED))
NAMES = st.sampled_from(
    [
        "messages",
        "conversations",
        "role",
        "content",
        "from",
        "value",
        "text",
        "type",
        "prompt",
        "completion",
        "question",
        "answer",
        "instruction",
        "input",
        "output",
        "history",
        "system",
        "tool_calls",
        "id",
        "user",
        "assistant",
        "x",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def spoken(turns: Any) -> list[tuple[str, str]]:
    return [(turn.role, "".join(turn.content)) for turn in turns]


# -- one record ------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(NAMES, JSON, min_size=1, max_size=5),
    st.sampled_from(
        [{}, {"text": "{text}\n{x}"}, {"messages": "messages"}, {"dialogue": {"user": "{x}", "assistant": "{text}"}}]
    ),
)
@settings(max_examples=300)
def test_any_record_is_shaped_or_dropped_for_a_reason(found: dict[str, Any], how: dict[str, Any]) -> None:
    part, document = source("files", path="x", **how), Document("f", record=found)
    for shaped in (plain_text(part, document), dialogue(part, document)):
        if isinstance(shaped, Dropped):
            assert shaped.reason in REASONS
        else:
            texts = [piece for turn in shaped for piece in (turn.content if isinstance(turn, Turn) else (turn,))]
            assert shaped and all(text.encode() for text in texts)


@pytest.mark.parametrize("spoiled", SPOILED)
@pytest.mark.parametrize("form", FORMATS)
def test_what_goes_wrong_in_a_record_has_one_name(form: str, spoiled: str) -> None:
    found = dialogue(AUTO, Document("f", record=record(form, spoiled, 7)))
    reason = dropped_for(form, spoiled)
    if reason in REASONS:
        assert isinstance(found, Dropped) and found.reason == reason
    else:
        assert not isinstance(found, Dropped) and found


@pytest.mark.parametrize("form", FORMATS)
def test_formats_are_recognised(form: str) -> None:
    assert getattr(recognised(FORMATS[form](3)), "name", None) == form


@pytest.mark.parametrize(
    ("found", "turns"),
    [
        ({"instruction": "a", "input": "", "output": "b"}, [("user", "a"), ("assistant", "b")]),
        (
            {"instruction": "a", "input": "c", "output": "b", "system": "s", "history": [["x", "y"]]},
            [("system", "s"), ("user", "x"), ("assistant", "y"), ("user", "a\nc"), ("assistant", "b")],
        ),
        ({"instruction": "a", "context": "c", "response": "b"}, [("user", "a\nc"), ("assistant", "b")]),
        (
            {"messages": '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]'},
            [("user", "a"), ("assistant", "b")],
        ),
        ({"system_prompt": "", "question": "a", "response": "b"}, [("user", "a"), ("assistant", "b")]),
        (
            {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
            [("user", "a"), ("assistant", "b")],
        ),
        (
            {
                "conversations": [
                    {"from": "System", "value": ""},
                    {"from": "human", "value": "a"},
                    {"from": "gpt", "value": 3},
                ]
            },
            [("user", "a"), ("assistant", "3")],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}, "b"]},
                    {"role": "assistant", "content": "c"},
                ],
                "prompt": "a",
            },
            [("user", "ab"), ("assistant", "c")],
        ),
    ],
)
def test_formats_become_turns(found: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    assert spoken(dialogue(AUTO, Document("f", record=found))) == turns


@pytest.mark.parametrize(
    ("template", "found", "text"),
    [
        ("{a}\n{b}", {"a": "x", "b": ""}, "x"),
        ("{a}\n{b}", {"a": "", "b": "y"}, "y"),
        ("{a}\n{b}", {"a": "x"}, "x"),
        ("{a}\n{b}", {"a": " ", "b": None}, ""),
        ("{a} {b}", {"a": "x", "b": ""}, "x"),
        ("{a} {b}!", {"a": "", "b": "y"}, "y!"),
        ("Q: {a}\nIn: {b}\nA: {c}", {"a": "x", "b": "", "c": "z"}, "Q: x\nA: z"),
        ("### Q:\n{a}\n\n### In:\n{b}\n\n### A:\n{c}", {"a": "x", "b": "", "c": "z"}, "### Q:\nx\n\n### A:\nz"),
        ("{a}\n{b}\n\n{c}", {"a": "x", "b": "", "c": "z"}, "x\n\nz"),
        ("Say.\n\n{b}", {"b": ""}, ""),
        ("{a}\n\n\nend", {"a": "x"}, "x\n\n\nend"),
        ("{a}: {b}", {"a": "x", "b": ""}, None),
        ("{a}{b}.", {"a": "x", "b": ""}, None),
        ("{b} is {a}", {"a": "x", "b": ""}, None),
        ("{a}<|m|>{b}", {"a": "x", "b": ""}, None),
        ("{a}\n<|m|>{b}", {"a": "x", "b": ""}, "x"),
    ],
)
def test_empty_fields_leave_out_what_is_theirs(template: str, found: dict[str, Any], text: str | None) -> None:
    part = source("files", path="x", text=template)
    shaped = plain_text(part, Document("f", record=found), ("<|m|>",))
    assert (shaped.reason == EMPTY if isinstance(shaped, Dropped) else "".join(shaped) == text) or not text
    assert isinstance(shaped, Dropped) == (not text)


@given(
    st.lists(st.sampled_from(["{a}", "{b}", "{c}", "\n", "\n\n", " ", "w", "<|m|>"]), max_size=8).map("".join),
    st.lists(st.sampled_from(["x", "y\n\nz", " v "]), min_size=3, max_size=3),
)
def test_full_records_fill_templates_word_for_word(template: str, values: list[str]) -> None:
    found = dict(zip("abc", values, strict=True))
    assert "".join(fill(template, found, ("<|m|>",))) == template.format(**found)


def test_a_round_that_is_empty_as_a_whole_is_left_out() -> None:
    rounds = ({"system": "{s}", "user": "{q}", "assistant": "{a}"}, {"user": "{q2}", "assistant": "{a2}"})
    part = source("files", path="x", dialogue=rounds)
    made = lambda **fields: dialogue(part, Document("f", record=fields))
    assert spoken(made(q="1", a="2", q2="", a2=None)) == [("user", "1"), ("assistant", "2")]
    assert made(q="1", a="2", q2="3", a2="") == Dropped(EMPTY, "a turn of assistant")


# -- plain text of records -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("id", "a1-b2", True),
        ("doc_id", "77", True),
        ("pageId", "x", True),
        ("uuid", "9f-1", True),
        ("id", "two words", False),
        ("idea", "x", False),
        ("valid", "yes", False),
        ("url", "https://a.b/c d", False),
        ("home", "http://a.b/c", True),
        ("link", "www.a.org/x", True),
        ("date", "2024-01-02T03:04:05Z", True),
        ("created_at", "3 May 2021", True),
        ("date", "The date palm is a tree.", False),
        ("updated", "1700000000", True),
        ("title", "1984", False),
        ("publishedDate", "May 3, 2021", True),
        ("update", "5", False),
    ],
)
def test_metadata_are_told_by_name_and_value(name: str, value: str, said: bool) -> None:
    assert is_metadata(name, value) is said


@pytest.mark.parametrize(
    ("found", "text", "read"),
    [
        ({"id": "1", "url": "http://a.b", "date": "2020-01-01", "text": "words"}, "words", ("text",)),
        ({"path": "a.py", "content": "code", "license": "MIT"}, "code", ("content",)),
        ({"id": "a1", "title": "Hen", "gloss": "a bird", "url": "http://a.b"}, "Hen\n\na bird", ("title", "gloss")),
        ({"instruction": "a", "input": "", "output": "b", "id": "x"}, "a\n\nb", ("instruction", "input", "output")),
    ],
)
def test_plain_text_of_records_nobody_shaped(found: dict[str, Any], text: str, read: tuple[str, ...]) -> None:
    assert plain_text(AUTO, Document("f", record=found)) == (text,)
    first = found_in("f:1", found)
    assert first.text == read
    assert all(name in first.sentence("plain")[1].partition("not read")[2] for name in found if name not in read)
    # What the spec says wins.
    shaped = source("files", path="x", dialogue={"user": "{id}"})
    assert plain_text(shaped, Document("f", record={"id": "a1"})) == ("a1",)
