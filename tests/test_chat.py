"""`llmspec chat`: commands, on standard input and typed on a terminal."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from terminals import Typed, environment
from test_source_formats import documents

from llmspec.cli.chat import conversed
from llmspec.cli.chat_commands import COMMANDS, End, carry_out
from llmspec.cli.chat_input import QUOTES
from llmspec.core.problems import LlmspecError, nearest
from llmspec.data.shaping import dialogue
from llmspec.decoding.conversation import Conversation
from llmspec.parts.sources import TABLE
from llmspec.parts.templates.base import Turn
from llmspec.render.chat import answer

LONG = 4096


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that, greedy, never ends its answer."""
    model = models.opened(0, chat=True, context=LONG)
    ends = [model.codec.specials.eos, *model.codec.specials.roles.values(), model.codec.specials.turn_end]
    weights = model.weights()
    for array in weights.values():
        if array.shape[0] == model.plan.model.vocab:
            array[ends] = 0.0
    model.weights = lambda: weights
    return model.save(tmp_path_factory.mktemp("chat") / "talker")


@functools.cache
def talker() -> Any:
    return models.opened(0, chat=True)


@pytest.fixture(autouse=True)
def opened_before() -> None:
    """Opening changes the recursion limit for a moment, which hypothesis warns of."""
    talker()


def talk() -> Conversation:
    return Conversation(talker())


def test_every_command_is_told_and_a_wrong_one_corrected() -> None:
    made = talk()
    for name, command in COMMANDS.items():
        assert f"/{name} {command.takes}".rstrip() in carry_out(made, "/help") and command.does
        if len(name) > 3:
            with pytest.raises(LlmspecError, match=f"did you mean `{nearest(name[:-1], COMMANDS)}`"):
                carry_out(made, f"/{name[:-1]}")
        if not command.takes:
            with pytest.raises(LlmspecError, match="takes nothing"):
                carry_out(made, f"/{name} x")
    with pytest.raises(End):
        carry_out(made, "/quit")


def test_settings_are_strict_and_take_effect() -> None:
    made = talk()
    assert carry_out(made, "/set temperature 0.25") == "temperature: 0.25" and made.decoding.temperature == 0.25
    assert carry_out(made, "/set decoding.top_k=3") == "top_k: 3" and made.decoding.top_k == 3
    assert carry_out(made, '/set stop ["a", " b"]') == 'stop: ["a", " b"]' and made.decoding.stop == ("a", " b")
    for between in (" ", "=", " = ", "  "):  # whatever stands in the value
        for value in ('["a=b"]', '["a = b", "=", " "]'):
            assert carry_out(made, f"/set stop{between}{value}") == f"stop: {value}"
    shown = carry_out(made, "/set").splitlines()
    assert {line.partition(":")[0] for line in shown} == set(type(made.decoding).model_fields)
    for wrong, said in (
        ("temprature 1", "did you mean `temperature`"),
        ("temperature -1", "temperature: .*0"),
        ("temperature", "a setting and its value"),
        ("top_p warm", "top_p: "),
    ):
        with pytest.raises(LlmspecError, match=f"(?s){said}"):
            carry_out(made, f"/set {wrong}")
    assert made.decoding.temperature == 0.25


ODD = (
    *(".", "/", "..", "~", "~nobody/a.jsonl", ".jsonl", "\0", "a\0.jsonl", "~\0", "a" * 5000, "a" * 5000 + ".jsonl"),
    *("=", "=1", "stop=", "stop '", "stop [", "stop " + "[" * 100, "stop &a [*a]", "stop.0 x", "decoding. 1", ". 1"),
    *(
        "temperature .nan",
        "temperature 1e999",
        "max_tokens " + "9" * 5000,
        "[] 1",
        "kv_cache.x 1",
        "a\nb",
        "-",
        "\u2028",
    ),
)


given_to = pytest.mark.parametrize("name", sorted({*COMMANDS} - {"quit"}))


def goes_on(name: str, argument: str, folder: Path) -> None:
    """A command ends no conversation, and changes none where it is refused."""
    made = talk()
    made.turns = turns = [("user", "a"), ("assistant", "b")]
    there = made.decoding
    with contextlib.chdir(folder):
        try:
            assert carry_out(made, f"/{name} {argument}")
        except LlmspecError as error:
            assert str(error) and (made.turns, made.system, made.decoding) == (turns, "", there)


@given_to
def test_no_command_ends_a_conversation_whatever_stands_behind_it(tmp_path: Path, name: str) -> None:
    for argument in ODD:
        goes_on(name, argument, tmp_path)


@given_to
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_characters="/~", exclude_categories=["Cs"])))
def test_nor_does_any_text(tmp_path: Path, name: str, text: str) -> None:
    goes_on(name, text, tmp_path)


def test_a_file_of_no_name_gets_one() -> None:
    made = talk()
    for wrong, proposed in (
        (".", "talk.jsonl"),
        ("/", "/talk.jsonl"),
        ("/tmp", "/tmp/talk.jsonl"),
        ("a.txt", "a.jsonl"),
    ):
        with pytest.raises(LlmspecError) as caught:
            carry_out(made, f"/save {wrong}")
        assert f"/save {proposed}," in caught.value.problems[0].hint


class Asked:
    """Lines of somebody who sits there, or of a file."""

    def __init__(self, typed: bool, *lines: str) -> None:
        self.typed, self._lines = typed, lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)


def test_whatever_goes_wrong_with_what_is_typed_is_told_and_the_conversation_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answered(text: str) -> str:
        if text == "first":
            raise ZeroDivisionError("of a bug")
        return text

    made = talk()
    assert [*conversed(made, made._model, Asked(True, "first", "second"), answered)] == ["second"]
    assert "a bug in llmspec" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        [*conversed(made, made._model, Asked(False, "first", "second"), answered)]


def test_a_question_that_is_stopped_while_it_is_read_is_told_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    made = talk()
    answer(made, "Hello", lambda: True)
    found = capsys.readouterr()
    assert "stopped by Ctrl-C before the first token; context 0 of 48" in found.err and not found.out
    assert "without this question" in found.err and not made.turns


def test_the_system_message_and_what_is_taken_back() -> None:
    made = talk()
    assert "no system message" in carry_out(made, "/system")
    carry_out(made, "/system be brief")
    assert carry_out(made, "/system").endswith("be brief") and made.messages() == [
        {"role": "system", "content": "be brief"}
    ]
    carry_out(made, "/system -")
    assert not made.system and "nothing to take back" in carry_out(made, "/undo")
    made.turns = [("user", "a"), ("assistant", "b")]
    assert carry_out(made, "/undo") == "taken back: a" and not made.turns
    made.turns = [("user", "a"), ("assistant", "b")]
    carry_out(made, "/clear")
    assert not made.turns and "context 0 of 48" in carry_out(made, "/context")


def test_what_is_saved_is_training_data(tmp_path: Path) -> None:
    made, path = talk(), tmp_path / "talk.jsonl"
    with pytest.raises(LlmspecError, match="nothing was said"):
        carry_out(made, f"/save {path}")
    made.system, made.turns = "s", [("user", 'a "b"\nc'), ("assistant", "ü\u2028")]
    assert "written" in carry_out(made, f"/save {path}") and "appended" in carry_out(made, f"/save {path}")
    found = documents(tmp_path, path.name)
    turns = [Turn("system", ("s",)), Turn("user", ('a "b"\nc',)), Turn("assistant", ("ü\u2028",))]
    assert [dialogue(TABLE["files"](path=path.name), document) for document in found] == [turns, turns]
    for wrong, said in ((tmp_path / "a.txt", "does not end in .jsonl"), (tmp_path / "no" / "a.jsonl", "No such file")):
        with pytest.raises(LlmspecError, match=said):
            carry_out(made, f"/save {wrong}")


def piped(saved: Path, given: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = tiny.command("chat", saved, *arguments)
    done = subprocess.run(command, input=given, capture_output=True, env=environment(), timeout=600)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


FEW = ("--set=decoding.max_tokens=5", "--set=decoding.temperature=0")


def test_lines_in_answers_out(saved: Path, tmp_path: Path) -> None:
    lines = f"Hello\n\n//slash\r\n{QUOTES}a\nb\n{QUOTES}\nc\\\nd\n/set max_tokens 3\n/save {tmp_path}/a.jsonl\nlast"
    done = piped(saved, lines.encode(), *FEW, "--json")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["prompt"] for one in found] == ["Hello", "/slash", "a\nb", "c\nd", "last"]
    assert [len(one["answer"]["tokens"]) for one in found] == [5, 5, 5, 5, 3]
    assert [one["context"]["used"] for one in found] == sorted(one["context"]["used"] for one in found)
    assert "max_tokens: 3" in done.stderr and len((tmp_path / "a.jsonl").read_text("utf-8").splitlines()) == 1
    plain = piped(saved, b"Hello\n", *FEW)
    assert plain.stdout == found[0]["answer"]["text"] + "\n" and f"of {LONG:,}" in plain.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"Hello\n/set top_q 1\nnever\n", "standard input:2:1: top_q: unknown key"),
        (b"Hello\n\xff\n", "standard input:2:1: this line is not UTF-8 text"),
        (b'Hello\n"""\nnever\n', "ends within a text"),
        (b"Hello\n" + b"x" * LONG + b"\n", f"standard input:2:1: the question has {LONG + 4:,} tokens"),
    ],
)
def test_what_is_wrong_on_standard_input_ends_it(saved: Path, given: bytes, said: str) -> None:
    done = piped(saved, given, *FEW, "--json")
    *answers, last = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 2 and len(answers) == 1 and not last["ok"]
    (problem,) = last["problems"]
    mark = problem["mark"] and f"{problem['mark']['file']}:{problem['mark']['line']}:{problem['mark']['column']}: "
    assert said.replace(",", "") in f"{mark or ''}{problem['message']}".replace(",", "")


def press(typed: Typed) -> None:
    """Ctrl-C, once the terminal's side has settled: Python loses one that comes while a prompt is written."""
    time.sleep(0.5)
    typed.process.send_signal(signal.SIGINT)


def test_a_conversation_on_a_terminal(saved: Path) -> None:
    before: Any = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told us to ignore it
    try:
        with Typed("chat", saved, "--set=decoding.temperature=0", "--set=decoding.max_tokens=4000") as typed:
            typed.until("small, with a context of 4,096", "> ")
            typed.type("/set temperatur 1")
            typed.until("did you mean `temperature`", "> ")
            typed.type("Hello")
            typed.until("Hello", "\n")
            press(typed)
            assert "context" in typed.until("ended by Ctrl-C", "> ")
            typed.type("/set max_tokens 3")
            typed.until("max_tokens: 3", "> ")
            typed.type("\\")
            typed.until(". ")
            press(typed)  # takes back what was begun
            typed.until("> ")
            typed.type("Again\\")
            typed.until(". ")
            typed.type("and again")
            typed.until("[3 tokens", "> ")
            typed.type("/undo")
            typed.until("taken back: Again\r\nand again", "> ")
            os.write(typed._ours, b"\x04")
            assert typed.ended() == 0
        with Typed("chat", saved) as typed:
            typed.until("> ")
            press(typed)
            assert typed.ended() == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_interruption_ends_at_once(saved: Path) -> None:
    before: Any = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Typed("chat", saved, "--set=decoding.temperature=0", "--set=decoding.max_tokens=4000") as typed:
            typed.until("> ")
            typed.type("Hello")
            typed.until("Hello", "\n")
            for _ in range(20):  # one that comes between the answer and the next prompt is lost
                typed.process.send_signal(signal.SIGINT)
                try:
                    assert typed.process.wait(3) in (130, -signal.SIGINT)
                    break
                except subprocess.TimeoutExpired:
                    pass
            else:
                raise AssertionError("it did not end")
    finally:
        signal.signal(signal.SIGINT, before)
