"""What `explain --prompt` says of an answer, and that it fits the terminal."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from strategies_decoding import HashDecoder, ToyCodec
from test_explain import as_json, assert_fits, printed

from llmspec.core.visible import visible
from llmspec.explain.decoding import explain_prompt, visible_bytes
from llmspec.spec.decoding import Decoding


def model(**settings: Any) -> Any:
    """What explain_prompt asks of a LanguageModel, over a decoder without weights."""
    pieces = b" the", b"\n", "é".encode()[:1], "漢字".encode(), b"a", b"\x1b[31m", b" comet" * 6, b"\xff", b"x\ty"
    codec = ToyCodec(pieces)
    source = SimpleNamespace(name="wiki", source=SimpleNamespace(license="CC BY-SA 4.0", attribution="Somebody"))
    base = Decoding(**{"max_tokens": 8, **settings})
    return SimpleNamespace(
        plan=SimpleNamespace(name="toy", sources=(source,)),
        phase="chat",
        chat=False,
        codec=codec,
        drawing=HashDecoder(codec.vocab),
        settings=lambda **more: base.updated(**more),
        tokens=lambda prompt: [0, 6, 7],
        seed=lambda given, found: 7 if given is None else given,
    )


ALL_ON = {"temperature": 0.7, "top_p": 0.9, "top_k": 9, "min_p": 0.01, "frequency_penalty": 0.5}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.8}, ALL_ON, {"temperature": 0}])
def test_an_answer_is_explained_as_it_is_drawn(settings: dict[str, Any]) -> None:
    from llmspec.decoding import generate

    report = explain_prompt(model(), "hello", seed=5, top=3, **settings)
    fake = model()
    (answer,) = generate(fake.drawing, fake.codec, [[0, 6, 7]], fake.settings(**settings), seed=5)
    assert [t.token for t in report.tokens] == answer.tokens
    assert (report.text, report.finish_reason) == (answer.text, answer.finish_reason)
    columns = 1 + len(report.filters)
    for token, choice in zip(report.tokens, answer.choices, strict=True):
        assert token.logprob == choice.logprob and token.probability == choice.probability
        assert len(token.entropy_bits) == len(token.kept) == columns == len(report.columns)
        (drawn,) = (c for c in token.candidates if c.chosen)
        assert drawn.token == token.token
        assert drawn.probabilities[0] == pytest.approx(math.exp(token.logprob))
        assert drawn.probabilities[-1] == pytest.approx(token.probability)
        assert [c.rank for c in token.candidates[:3]] == [1, 2, 3] and len(token.candidates) in (3, 4)
    as_json(report)
    assert_fits(report)


def test_truncating_filters_leave_fewer_tokens() -> None:
    report = explain_prompt(model(), "hello", top_k=2)
    assert all(t.kept[0] > t.kept[1] == 2 for t in report.tokens)
    assert "–" in printed(report, 80), "a token that was cut"


def test_blocks_stand_side_by_side_where_there_is_room() -> None:
    report = explain_prompt(model(), "hello", temperature=0.7)
    assert len(printed(report, 140).splitlines()) < 0.75 * len(printed(report, 80).splitlines())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b" a b", "·a·b"),
        (b"\n\t", "⏎⇥"),
        ("é".encode(), "é"),
        ("é".encode()[:1], "\\xc3"),
        (b"\x1b[0m", "\\x1b[0m"),
        ("·".encode(), "\\xb7"),
        ("\u0301".encode(), "\\u0301"),
        ("\u202e".encode(), "\\u202e"),
        (b"", ""),
        ("\U000e0001".encode(), "\\U000e0001"),
        ("漢".encode(), "漢"),
        ("\xa0".encode(), "\\xa0"),
    ],
)
def test_nothing_hides_in_a_token(data: bytes, text: str) -> None:
    assert visible_bytes(data) == text


def test_text_keeps_its_lines_but_not_its_controls() -> None:
    assert visible("a b\n\tc\x1b[31m") == "a b\n\tc\\x1b[31m"
