"""Conversations: each answer is that of the same turns alone, what was read is not read again, and what no longer fits
is left out by whole questions."""

from __future__ import annotations

import functools
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmspec.backends.cpu import native
from llmspec.core.problems import LlmspecError
from llmspec.decoding import batch
from llmspec.decoding.conversation import Conversation
from llmspec.decoding.generate import generate

CONTEXT = 96
words = st.text(st.sampled_from("abc d"), min_size=1, max_size=12).filter(str.strip)
acts = st.lists(st.just("undo") | st.just("clear") | words | st.tuples(words, st.integers(1, 4)), max_size=7)


@functools.cache
def model(context: int = CONTEXT) -> Any:
    return models.opened(1, chat=True, context=context)


def said(talk: Conversation, question: str, most: int = 1000) -> str:
    """The answer, stopped after so many tokens; in pieces, as where somebody may stop it sooner."""
    events = talk.ask(question, lambda: False)
    text = "".join(event.text for _, event in zip(range(most), events, strict=False))
    events.close()
    return text


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones, so that questions have several."""
    monkeypatch.setattr(batch, "PIECE", 32)


@settings(deadline=None, max_examples=15)
@example(["a", "   b b b", "a", "undo"], 13, "be brief", 17)
@given(acts, st.integers(0, 99), st.sampled_from(["", "be brief"]), st.integers(1, 30))
def test_an_answer_is_that_of_the_same_turns_alone(acts: list[Any], seed: int, system: str, most: int) -> None:
    """Whatever was asked, stopped, undone and forgotten before."""
    made, asked = model(), 0
    decoding = made.settings(temperature=0.7, max_tokens=most)
    talk, turns = Conversation(made, system=system, decoding=decoding, seed=seed), list[tuple[str, str]]()
    for act in acts:
        if act == "undo":
            assert talk.undo() == ((turns[-2][1], turns[-1][1]) if turns else None)
            del turns[-2:]
        elif act == "clear":
            talk.clear()
            turns.clear()
        else:
            question, stop = act if isinstance(act, tuple) else (act, 1000)
            text = said(talk, question, stop)
            read = [*([("system", system)] if system else []), *turns[talk.left_out :], ("user", question)]
            ids = made.tokens(read, chat=True)
            assert len(ids) + min(most, CONTEXT // 2) <= CONTEXT or talk.left_out == len(turns)
            decoder, codec = made.decoder, made.codec
            alone = generate(decoder, codec, [ids], decoding, n=asked + 1, seed=seed, chat=True)[asked]
            assert alone.text == text if stop == 1000 else alone.text.startswith(text)
            asked += 1
            if text:
                turns += [("user", question), ("assistant", text)]
        assert talk.turns == turns and talk.left_out % 2 == 0 and talk.left_out <= len(turns)
        assert (talk.used == 0) == (not turns) and talk.used <= CONTEXT
    roles = [message["role"] for message in talk.messages()]
    assert roles == ["system"] * bool(system) + ["user", "assistant"] * (len(turns) // 2)


@settings(deadline=None, max_examples=12)
@given(st.lists(words, max_size=2), st.text("ab", min_size=33, max_size=150), st.integers(0, 9), words)
def test_a_question_that_is_stopped_while_it_is_read_was_never_asked(
    before: list[str], question: str, asked: int, after: str
) -> None:
    """Whenever it is stopped: between two pieces, too."""
    made = model(256)
    decoding = made.settings(temperature=0.7, max_tokens=6)
    talk, other = (Conversation(made, system="s" * 40, decoding=decoding, seed=3) for _ in range(2))
    for text in before:
        assert said(talk, text) == said(other, text)
    there, going = (list(talk.turns), talk.left_out, talk.used), iter([True] * asked)
    if not list(talk.ask(question, lambda: not next(going, False))):
        assert (talk.turns, talk.left_out, talk.used) == there
        assert said(talk, after) == said(other, after)


@pytest.mark.skipif(not native.products().startswith("own"), reason="elsewhere a question is read at once")
def test_a_stop_is_heard_between_the_pieces_of_a_question() -> None:
    made = models.opened(3, chat=True, context=512)
    for pieces in range(1, 5):
        talk = Conversation(made, decoding=made.settings(temperature=0))
        asked = iter([False] * pieces)
        assert read_by(made, lambda t=talk, a=asked: list(t.ask("a" * 200, lambda: next(a, True)))) == 32 * pieces
        assert not talk.turns and talk.used == 0


class Refusing:
    """A chat template that has no place for a system message."""

    def __init__(self, template: Any) -> None:
        self._template = template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._template, name)

    def prompt(self, specials: Any, turns: Any) -> Any:
        if any(turn.role == "system" for turn in turns):
            raise LlmspecError("the chat template refuses system messages")
        return self._template.prompt(specials, turns)


@given(acts.filter(bool), words)
@settings(deadline=None, max_examples=10)
def test_what_is_refused_changes_nothing(acts: list[Any], system: str) -> None:
    made = models.opened(1, chat=True, context=CONTEXT)
    template = Refusing(made.plan.chat_template)
    made.plan = made.plan.model_copy(update={"chat_template": template})
    talk = Conversation(made, decoding=made.settings(temperature=0.7, max_tokens=4), seed=2)
    for act in acts:
        said(talk, act if isinstance(act, str) else act[0])

        def is_as(there: Any = (list(talk.turns), talk.left_out, talk.used, talk.system)) -> bool:
            return (talk.turns, talk.left_out, talk.used, talk.system) == there

        with pytest.raises(LlmspecError, match="refuses system messages"):
            talk.instruct(system)
        assert is_as()
        talk.system = system  # as `--system` gives it
        for refused in (lambda: said(talk, "a"), lambda: talk.undo() if len(talk.turns) > 2 else said(talk, "a")):
            with pytest.raises(LlmspecError, match="refuses system messages"):
                refused()
        talk.system = ""
        assert is_as()


def read_by(made: Any, act: Any) -> int:
    """How many tokens of prompts, padding included, the decoder reads meanwhile."""
    counted, original = list[int](), made.decoder._run
    made.decoder._run = lambda jit, cache, inputs: (
        counted.append(int(np.prod(inputs["tokens"].shape)) if "last" in inputs else 0) or original(jit, cache, inputs)
    )
    try:
        act()
    finally:
        del made.decoder._run
    return sum(counted)


@pytest.mark.skipif(not native.products().startswith("own"), reason="what BLAS makes of a row depends on the others")
def test_only_the_new_turn_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "PIECE", 512)
    made = models.opened(3, chat=True, context=256)
    greedy = made.settings(temperature=0, max_tokens=4)
    talk = Conversation(made, system="s" * 60, decoding=greedy)
    assert read_by(made, lambda: said(talk, "a" * 30)) == 128
    talk.turns = [("user", "a" * 30), ("assistant", "")]  # what was drawn is no text of bytes, and would be read anew
    assert read_by(made, lambda: said(talk, "b" * 9)) == 16
    talk.turns = [*talk.turns[:2], ("user", "b" * 9), ("assistant", "")]
    assert read_by(made, lambda: said(talk, "c" * 9)) == 16
    talk.turns = talk.turns[:4]
    assert read_by(made, lambda: said(talk, "d" * 20)) == 32


def test_what_no_longer_fits_is_left_out_by_whole_questions() -> None:
    made, seen = model(), list[int]()
    talk = Conversation(made, system="s" * 20, decoding=made.settings(temperature=0.5, max_tokens=10), seed=1)
    for number in range(8):
        there, text = len(talk.turns), said(talk, f"{number}" * 9)
        assert len(talk.turns) == there + 2 * bool(text)
        seen.append(talk.left_out)
    assert seen[0] == 0 and seen[-1] > 2 and seen == sorted(seen)
    assert len(talk.turns) > 10 and talk.messages()[0]["content"] == "s" * 20
    before: list[tuple[str, str]] = list(talk.turns)
    for long in (CONTEXT, 4 * CONTEXT):
        with pytest.raises(LlmspecError, match=r"the question, with the system message, has [0-9]+ tokens"):
            said(talk, "x" * long)
        assert talk.turns == before
    talk.undo()
    assert talk.left_out <= seen[-1] and talk.turns == before[:-2] and talk.used <= CONTEXT
    talk.clear()
    assert talk.left_out == talk.used == 0


def test_a_cache_grows_with_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the whole context would take much memory, places come as they are needed, and no answer is another."""
    made, asked = model(), ["ab", "c" * 20, "d"]
    decoding = made.settings(temperature=0.5, max_tokens=8)
    whole = Conversation(made, decoding=decoding, seed=2)
    answers = [said(whole, text) for text in asked]
    monkeypatch.setattr("llmspec.model.decoder.LITTLE", 0)
    talk, places = Conversation(made, decoding=decoding, seed=2), list[int]()
    for text, answer in zip(asked, answers, strict=True):
        assert said(talk, text) == answer
        places.append(talk._cache.places)
    assert places[0] == 16 < places[1] <= places[2] <= CONTEXT and whole._cache.places == CONTEXT


def test_a_model_of_texts_is_refused() -> None:
    with pytest.raises(LlmspecError, match="answers no dialogues") as caught:
        Conversation(models.opened())
    assert "llmspec sample" in caught.value.problems[0].hint
