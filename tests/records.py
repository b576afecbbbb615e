"""Records as data sets have them: the usual formats of dialogues, and what goes wrong in them, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Record = dict[str, Any]


def messages(i: int) -> Record:
    return {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": f"what is {i}?"},
            {"role": "assistant", "content": f"number {i}"},
        ]
    }


def sharegpt(i: int) -> Record:
    return {"id": f"x{i}", "conversations": [{"from": "human", "value": f"say {i}"}, {"from": "gpt", "value": f"{i}!"}]}


def alpaca(i: int) -> Record:
    return {"instruction": f"double {i}", "input": f"it is {i}", "output": f"that is {2 * i}"}


def completion(i: int) -> Record:
    return {"prompt": f"after {i} comes", "completion": f"{i + 1}"}


def question(i: int) -> Record:
    return {"question": f"who has {i}?", "answer": f"person {i}", "url": f"https://a.b/{i}"}


FORMATS: dict[str, Callable[[int], Record]] = {
    "messages": messages,
    "ShareGPT": sharegpt,
    "Alpaca": alpaca,
    "prompt and completion": completion,
    "question and answer": question,
}
"""Name in the table -> record number i of the format."""
LISTS, KEYS = ("messages", "conversations"), (("role", "content"), ("from", "value"))
ANSWERS = ("output", "completion", "answer")
QUESTIONS = ("instruction", "prompt", "question")


def turn_of(record: Record, nth: int) -> tuple[Record, str, str] | None:
    """(message, its key of the role, its key of the content) of a list of messages."""
    listed = next((record[name] for name in LISTS if name in record), None)
    keys = KEYS[0] if "messages" in record else KEYS[1]
    return (listed[nth], *keys) if listed else None


def answered(value: Any) -> Callable[[Record], None]:
    """Sets the answer."""

    def change(record: Record) -> None:
        if turn := turn_of(record, -1):
            turn[0][turn[2]] = value
        else:
            record[next(name for name in ANSWERS if name in record)] = value

    return change


def asked(value: Any) -> Callable[[Record], None]:
    """Sets the question."""

    def change(record: Record) -> None:
        if turn := turn_of(record, -2):
            turn[0][turn[2]] = value
        else:
            record[next(name for name in QUESTIONS if name in record)] = value

    return change


def listed(do: Callable[[list[Record], str, str], None]) -> Callable[[Record], None]:
    """Changes a list of messages; other formats stay as they are."""

    def change(record: Record) -> None:
        if turn := turn_of(record, 0):
            do(next(record[name] for name in LISTS if name in record), turn[1], turn[2])

    return change


def without_input(record: Record) -> None:
    if "input" in record:
        record["input"] = ""


def broken_list(record: Record) -> None:
    for name in LISTS:
        if name in record:
            record[name] = [{"text": "no role"}]


SPOILED: dict[str, tuple[Callable[[Record], None], str | None]] = {
    "as it is": (lambda record: None, None),
    "an empty input": (without_input, None),
    "an empty system turn": (
        listed(lambda m, role, content: m[0].update({content: ""}) if m[0][role] == "system" else None),
        None,
    ),
    "a null system turn": (listed(lambda m, role, content: m.insert(0, {role: "system", content: None})), None),
    "fields of other kinds beside": (
        lambda record: record.update(id="a-1", date="2024-01-02", score=0.5, tags=["x"]),
        None,
    ),
    "a number as answer": (answered(42), None),
    "the assistant first": (listed(lambda m, role, content: m.insert(0, {role: m[-1][role], content: "hello"})), None),
    "a question last": (listed(lambda m, role, content: m.append(dict(m[-2], **{content: "and now?"}))), None),
    "two questions in a row": (listed(lambda m, role, content: m.insert(-1, dict(m[-2]))), None),
    "content parts": (
        listed(
            lambda m, role, content: m[-1].update(
                {content: [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
            )
        ),
        None,
    ),
    "an empty answer": (answered(""), "empty"),
    "a null answer": (answered(None), "empty"),
    "a blank answer": (answered(" \n\t"), "empty"),
    "a missing answer of a table": (answered(float("nan")), "empty"),
    "an endless number": (answered(float("inf")), "not text"),
    "an empty question": (asked(""), "empty"),
    "a map as answer": (answered({"a": 1}), "not text"),
    "half a surrogate pair": (answered("\ud83d"), "unreadable"),
    "a huge answer": (answered("very " * 400 + "long"), "too long"),
    "a tool": (listed(lambda m, role, content: m.insert(1, {role: "tool", content: "{}"})), "unknown role"),
    "an image": (
        listed(lambda m, role, content: m[-1].update({content: [{"type": "image_url", "image_url": "u"}]})),
        "not text",
    ),
    "no answer": (listed(lambda m, role, content: m.pop()), "no turn to train on"),
    "no role": (broken_list, "unreadable"),
    "another record": (lambda record: (record.clear(), record.update(title="a", body="b"))[0], "unknown format"),
}
"""What is done to a record -> (how, the reason for which its dialogue is dropped; None where it is learned).

Changes of messages leave the other formats as they are: `dropped_for` knows which.
"""
OF_LISTS = ("a tool", "an image", "no answer", "no role")


def record(form: str, spoiled: str, i: int) -> Record:
    """Record number i of a format, with one thing done to it."""
    made = FORMATS[form](i)
    SPOILED[spoiled][0](made)
    return made


def dropped_for(form: str, spoiled: str) -> str | None:
    """The reason for which such a record is no dialogue that is learned from, or None."""
    if spoiled in OF_LISTS and form not in ("messages", "ShareGPT"):
        return None
    if (form, spoiled) == ("Alpaca", "an empty question"):  # its input still asks
        return None
    return SPOILED[spoiled][1]
