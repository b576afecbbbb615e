"""Files of prompts: every form that is read, every mistake by its line, and answers in the order of the file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies_decoding import HashDecoder, ToyCodec

from llmspec.cli.prompts import prompts_in, turns_or_text, wrong
from llmspec.core.problems import LlmspecError
from llmspec.decoding import Event, Generation, stream
from llmspec.decoding.generate import outlived, whole_answers
from llmspec.decoding.prompt_file import FilePrompt, read
from llmspec.render.samples_batch import Progress, documents
from llmspec.spec.decoding import Decoding

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
texts = st.text(st.characters(exclude_characters="\n\r", exclude_categories=("Cs",)), min_size=1)


@given(st.lists(texts, min_size=1), st.booleans())
def test_each_line_that_is_not_blank_is_a_prompt(lines: list[str], mark: bool) -> None:
    raw = ("\ufeff" * mark + "\r\n".join(lines)).encode()
    wanted = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if mark is False and lines[0].startswith("\ufeff"):
        return  # a byte order mark, as editors write it
    if not wanted:
        with pytest.raises(LlmspecError, match="holds no prompt"):
            read(raw, "a.txt")
    else:
        prompts, unread = read(raw, "a.txt")
        assert [(p.line, p.text) for p in prompts] == wanted and not unread


@given(st.lists(texts, min_size=1))
def test_a_line_of_json_says_the_same(lines: list[str]) -> None:
    records = [
        {"prompt": line} if i % 2 else {"messages": [{"role": "user", "content": line}]} for i, line in enumerate(lines)
    ]
    raw = "\n".join(json.dumps(record) for record in records).encode()
    for name in ("a.jsonl", "a.ndjson", "-"):
        assert [p.asked for p in read(raw, name)[0]] == lines


def test_parts_of_text_are_put_together_and_other_keys_named() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": PARTS}]
    (prompt,), unread = read(json.dumps({"messages": turns, "id": 3, "label": ""}).encode(), "a.jsonl")
    assert prompt.turns == (("system", "s"), ("user", "ab")) and unread == {"id", "label"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "it is not JSON: Expecting property name enclosed in double quotes in column 2"),
        ('{"prompt": NaN}', "NaN"),
        ("[1]", "one JSON object"),
        ("{}", "neither `prompt` nor `messages`"),
        ('{"promt": "x"}', "neither `prompt` nor `messages`.*hint: did you mean `prompt`"),
        ('{"question": "x"}', "rename `question` to `prompt`"),
        ('{"conversations": []}', "rename `conversations` to `messages`"),
        ('{"prompt": 3}', "`prompt` is a text, not a number"),
        ('{"prompt": null}', "not null"),
        ('{"prompt": "", "messages": []}', "not both"),
        ('{"messages": []}', "`messages` is a list of messages"),
        ('{"messages": "x"}', "`messages` is a list of messages"),
        ('{"messages": [{"role": "user"}]}', "message 1 has other keys"),
        ('{"messages": [{"role": "user", "content": 3}]}', "content of message 1 is not text"),
        ('{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "content of message 1 is not text"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}', "nothing is left"),
    ],
)
def test_a_wrong_line_is_named(line: str, why: str) -> None:
    raw = f'{{"prompt": "fine"}}\n\n{line}\n{line}\n'.encode()
    with pytest.raises(LlmspecError, match=f"(?s)a.jsonl:3:1: .*{why}.*a.jsonl:4:1: "):
        read(raw, "a.jsonl")


def test_what_is_no_file_of_prompts_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for raw, name, why in (
        (b"a\nb\xff", "a.txt", "a.txt:2:1: byte 0xff is not UTF-8"),
        (b"", "-", "standard input holds no"),
        (b"{}", "a.json", "name the file a.jsonl"),
    ):
        with pytest.raises(LlmspecError, match=why):
            read(raw, name)
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(LlmspecError, match="the prompts cannot be read: "):
            prompts_in(path)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a\nb")))
    assert [p.text for p in prompts_in(Path("-"))] == ["a", "b"]


def one(record: dict[str, Any]) -> FilePrompt:
    return read(json.dumps(record).encode(), "a.jsonl")[0][0]


def test_a_system_message_stands_once() -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    text, dialogue = one({"prompt": "u"}), one({"messages": turns})
    assert turns_or_text(text, "") == "u" and turns_or_text(text, "t") == [("system", "t"), ("user", "u")]
    assert turns_or_text(dialogue, "") == [("system", "s"), ("user", "u")]
    model = SimpleNamespace(tokens=lambda given, chat: [0] * 3, drawing=SimpleNamespace(context=4, encoder_context=0))
    (problem,) = wrong(model, dialogue, turns_or_text(dialogue, "t"), True, "t")
    assert "and in --system" in problem.message and problem.mark == dialogue.mark
    assert not list(wrong(model, dialogue, turns_or_text(dialogue, ""), True, ""))
    assert not list(wrong(model, text, "u", False, ""))
    (problem,) = wrong(model, dialogue, turns_or_text(dialogue, ""), False, "")
    assert "are for chat models" in problem.message


CODEC = ToyCodec()
PROMPTS = [[0, i] for i in range(7)]


def events(seed: int) -> Iterator[Event]:
    decoder = HashDecoder(CODEC.vocab, context=24, most=3)
    return stream(decoder, CODEC, PROMPTS, Decoding(max_tokens=9, stop=("a", "b", "c", "d", "e")), n=2, seed=seed)


@given(st.integers(0, 99), st.integers(0, 200))
def test_answers_come_in_order_and_whole_ones_outlive_an_interruption(seed: int, after: int) -> None:
    whole = list(whole_answers(events(seed), 2))
    assert [[(a.prompt, a.sample) for a in answers] for answers in whole] == [[(p, 0), (p, 1)] for p in range(7)]

    def interrupted() -> Iterator[Event]:
        for number, event in enumerate(events(seed)):
            if number == after:
                raise KeyboardInterrupt
            yield event

    used = whole_answers(events(seed), 2)
    some = [answers for answers, _ in zip(used, range(after % 3), strict=False)]
    with pytest.raises(KeyboardInterrupt):
        some.extend(outlived(used, KeyboardInterrupt()))
    assert some == [whole[p] for p in sorted(answers[0].prompt for answers in some)]

    ended = {event.row for number, event in enumerate(events(seed)) if number < after and event.finish_reason}
    found = list[list[Generation]]()
    try:
        for answers in whole_answers(interrupted(), 2):
            found.append(answers)
        assert len(found) == 7
    except KeyboardInterrupt:
        assert len(found) < 7
    assert found == [whole[p] for p in range(7) if {2 * p, 2 * p + 1} <= ended]


def test_progress_is_counted_and_documents_follow_the_file() -> None:
    prompts, said = read(b"\n".join(b"%d" % i for i in range(7)), "a.txt")[0], list[str]()

    def answers(on_token: Any) -> Iterator[list[Generation]]:
        return whole_answers(events(1), 2, lambda event: (on_token(event), progress(event)))

    progress = Progress(14, said.append)
    found = list(documents(prompts, answers, 2))
    assert [(d["line"], d["prompt"], len(d["answers"])) for d in found] == [(i + 1, str(i), 2) for i in range(7)]
    assert len(said) == progress.answers == 14 and said[-1].startswith("answering 100%")
    assert "[14 of 14 answers" in progress.summary()
