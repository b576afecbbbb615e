"""Stop sequences and streamed text: cut exactly, wherever tokens begin and end."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import tokenizer_files
from hypothesis import example, given
from hypothesis import strategies as st
from strategies_decoding import ToyCodec, split_texts

from llmspec.decoding.stops import TextStream
from llmspec.parts import tokenizers
from llmspec.parts.tokenizers.base import Codec
from llmspec.parts.tokenizers.special_tokens import EOS, SPECIALS, TURN_END

# Few letters, so that stops occur, overlap and nearly occur; of one, two, three and four bytes.
few = st.text("aé€🙂", max_size=20)
any_text = few | st.text(max_size=20)
a_stop = st.text("aé€🙂", min_size=1, max_size=5)


def play(codec: Codec, ids: Sequence[int], stop: Sequence[str]) -> tuple[list[str], str | None]:
    """The text of each push, then of finish; and the stop that was met."""
    stream = TextStream(codec, stop)
    shown = []
    for token in ids:
        shown.append(stream.push(token))
        if stream.stopped is not None:
            break
    return [*shown, stream.finish()], stream.stopped


def first_complete(text: str, stops: Sequence[str]) -> int:
    """By brute force, character by character: where the text is cut, or its length."""
    for end in range(len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return min(starts)
    return len(text)


@given(split_texts(any_text), a_stop)
def test_one_stop_cuts_exactly(split: tuple[str, ToyCodec, list[int]], stop: str) -> None:
    text, codec, ids = split
    shown, stopped = play(codec, ids, [stop])
    assert "".join(shown) == text.split(stop)[0]
    assert stopped == (stop if stop in text else None)


@given(split_texts(any_text | st.text("aé", max_size=8)), st.lists(a_stop | st.text("aé", min_size=1), max_size=4))
@example(("xaébc", ToyCodec(["xaébc".encode()]), [len(SPECIALS)]), ["c", "éb", "aéb"])
def test_the_first_stop_to_be_complete_cuts(split: tuple[str, ToyCodec, list[int]], stops: list[str]) -> None:
    text, codec, ids = split
    shown, stopped = play(codec, ids, stops)
    assert "".join(shown) == text[: first_complete(text, stops)]
    assert (stopped is None) == (not any(s in text for s in stops))


@given(split_texts(few), st.lists(a_stop, max_size=3))
def test_no_more_is_held_back_than_may_become_a_stop(split: tuple[str, ToyCodec, list[int]], stops: list[str]) -> None:
    text, codec, ids = split
    stream = TextStream(codec, stops)
    data, shown = b"", ""
    for token in ids:
        data += codec.token_bytes(token)
        shown += stream.push(token)
        if stream.stopped is not None:
            break
        whole = data.decode(errors="ignore")
        possible = max((n for s in stops for n in range(len(s)) if whole.endswith(s[:n])), default=0)
        assert shown == whole[: len(whole) - possible]
    assert text.startswith(shown)


@given(st.binary(max_size=12), st.sets(st.integers(0, 12)))
def test_without_stops_it_is_decode(data: bytes, cuts: set[int]) -> None:
    edges = sorted({0, len(data), *(c for c in cuts if c < len(data))})
    codec = ToyCodec([data[a:b] for a, b in itertools.pairwise(edges)])
    ids = list(range(len(codec.specials), codec.vocab))
    assert "".join(play(codec, ids, [])[0]) == codec.decode(ids)


@pytest.mark.parametrize("kind", list(tokenizers.TABLE))
@given(data=st.data())
def test_the_stream_of_every_tokenizer_is_its_decode(kind: str, data: st.DataObject) -> None:
    codec = trained(kind)
    ids = data.draw(st.lists(st.integers(0, codec.vocab - 1), max_size=12))
    assert "".join(play(codec, ids, [])[0]) == codec.decode(ids)


SETTINGS: dict[str, Any] = {
    "bpe": {"vocab": 280},
    "wordpiece": {"vocab": 46},
    "unigram": {"vocab": 280},
    "huggingface": {"file": tokenizer_files.kept("wordpiece")},
}


@functools.cache
def trained(kind: str) -> Codec:
    part = tokenizers.TABLE[kind](**SETTINGS.get(kind, {}))
    return part.train(["the cat sat on the mat, né à Genève 🙂 " * 20])


def ids_of(codec: Codec, *parts: str) -> list[int]:
    """Ids of texts and, where a part is exactly one, of special tokens."""
    return [i for p in parts for i in ([codec.specials[p]] if p in codec.specials else codec.encode([p])[0])]


@pytest.mark.parametrize(
    ("stop", "parts", "text", "stopped"),
    [
        (["<|user|>"], ["ab", "<|user|>", "cd"], "ab", True),
        (["<|user|>"], ["ab<|us", "er|>cd"], "ab", True),
        (["\n<|user|>"], ["a\nb\n", "<|user|>", "cd"], "a\nb", True),
        (["<|user|>\n"], ["a", "<|user|>", "b"], "ab", False),
        (["<|user|>\n"], ["a", "<|user|>", "\nb"], "a", True),
        (["user"], ["a", "<|user|>", "b"], "ab", False),
        (["ab"], ["a", "<|sum|>", "b"], "", True),
        (["<|sum|>"], ["a", "<|sum|>", "b"], "a", True),
        ([TURN_END, "x"], ["a", TURN_END], "a", True),
        (["y"], ["a", TURN_END, EOS, "b"], "ab", False),
    ],
)
def test_stops_that_spell_special_tokens(stop: list[str], parts: list[str], text: str, stopped: bool) -> None:
    codec = ToyCodec(markers=["<|sum|>"])
    shown, met = play(codec, ids_of(codec, *parts), stop)
    assert ("".join(shown), met is not None) == (text, stopped)


def test_a_special_stop_ends_an_unfinished_character() -> None:
    codec = ToyCodec()
    first = len(codec.specials)
    shown, met = play(codec, [first + ord("a"), first + 0xC3, codec.specials["<|user|>"]], ["<|user|>"])
    assert "".join(shown) == "a\ufffd" and met == "<|user|>"


def test_nothing_follows_a_stop() -> None:
    codec = ToyCodec()
    stream = TextStream(codec, ["b"])
    assert [stream.push(i) for i in codec.encode(["abc"])[0]] == ["a", "", ""]
    assert stream.finish() == "" and stream.stopped == "b"
