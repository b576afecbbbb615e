"""Pairs of texts for an encoder and its decoder, against a plain Python reading of the same rules."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import CODEC, END_ID, TEMPLATE, dialogues, phase_of, plain_set, roles, taught, texts

from llmspec.core.problems import DataError
from llmspec.data.checks import inputs_of, marks, torn
from llmspec.data.layout import Batch, Layout, Pair, blank
from llmspec.data.ledger import Ledger
from llmspec.data.pairs import AnswerLayout, PrefixLayout
from llmspec.data.shaping import NOTHING_BEFORE, NOTHING_LEARNED, TOO_LONG
from llmspec.data.stream import PhaseStream
from llmspec.data.tokens import encode_dialogues
from llmspec.data.turns import spelled
from llmspec.data.validation import ValidationSet
from llmspec.parts.templates.base import Turn, encode

START = 7
quick = settings(deadline=None, max_examples=60)
sizes = st.tuples(st.sampled_from([2, 5, 16]), st.sampled_from([1, 3, 16]))


def halves(batch: Batch, row: int) -> tuple[list[int], list[int]]:
    """What the encoder reads, and what the decoder predicts; the rest of a row is padding."""
    assert batch.encoder_tokens is not None and batch.encoder_filled is not None
    source, filled = int(batch.encoder_filled[row]), int(batch.filled[row])
    targets = batch.targets[row].tolist()
    assert batch.tokens[row].tolist()[:filled] == [START, *targets[: filled - 1]][:filled]
    assert batch.tokens[row, filled:].tolist() == [END_ID] * (batch.tokens.shape[1] - filled)
    assert batch.weights[row].tolist() == [1] * filled + [0] * (len(targets) - filled)
    assert (batch.encoder_tokens[row, source:] == END_ID).all()
    return batch.encoder_tokens[row, :source].tolist(), targets[:filled]


def ids(text: str) -> list[int]:
    return CODEC.encode([text])[0]


def read(layout: Layout, context: int, pair: Pair, blocks: list[int]) -> Batch:
    batch = blank(len(blocks), context, END_ID, pair)
    layout.gather(batch, np.arange(len(blocks)), np.array(blocks, np.int64))
    return batch


@quick
@given(texts, sizes, st.integers(1, 30))
def test_each_stretch_of_text_is_cut_once(documents: list[str], size: tuple[int, int], blocks: int) -> None:
    (context, source), pair = size, Pair(size[1], START)
    layout = PrefixLayout(plain_set(documents), context, END_ID, pair, (3, "p"))
    each = max(2, min(size))
    batch, plain, begin = read(layout, context, pair, list(range(blocks))), [], 0
    while len(plain) < blocks * each:
        order, _ = layout._order(begin)
        plain += [token for i in order for token in (END_ID, *ids(documents[i]))]
        begin += 1
    for row in range(blocks):
        first, second = halves(batch, row)
        assert first and second and len(first) <= source and len(second) <= context
        assert first + second == plain[row * each : (row + 1) * each]
    counts = layout.counts(blocks)
    assert (counts.tokens_read, counts.blocks) == (int(batch.read.sum()), blocks)
    assert (counts.tokens_supervised, counts.least) == (int(batch.weights.sum()), int(batch.weights.sum(1).min()))
    assert counts.tokens_repeated == int(batch.repeated.sum())
    again = read(layout, context, pair, [blocks - 1])
    assert halves(again, 0) == halves(batch, blocks - 1)


def test_every_cut_is_drawn() -> None:
    layout = PrefixLayout(plain_set(["abc" * 40]), 8, END_ID, Pair(8, START), (1, "p"))
    found = np.bincount(layout.cuts(np.arange(7000)), minlength=9)
    assert found[0] == found[8] == 0 and found[1:8].min() > 900
    assert np.array_equal(layout.cuts(np.array([6999, 5])), layout.cuts(np.arange(7000))[[6999, 5]])


@quick
@given(texts, sizes)
def test_validation_predicts_every_token_once(documents: list[str], size: tuple[int, int]) -> None:
    (context, source), pair = size, Pair(size[1], START)
    found = ValidationSet(
        "a", phase_of("pretrain", {"a": 100}, "4 steps"), plain_set(documents), context, END_ID, None, pair
    )
    stream = [token for text in documents for token in (END_ID, *ids(text))] + [END_ID]
    said: list[int] = []
    for batch in found:
        for row in np.flatnonzero(batch.filled):
            before, after = halves(batch, int(row))
            at = 1 + len(said)
            assert before == stream[max(0, at - source) : at] and before
            said += after
    assert said == stream[1:] and found.tokens == len(said)
    assert found.characters == sum(map(len, documents))


def wanted(turns: list[Turn], train_on: tuple[str, ...]) -> list[tuple[list[int], list[int]]]:
    """(before, answer) of each stretch of tokens that `train_on` names, from the template's segments."""
    who = tuple(role for role in train_on if role != "last_turn") or ("assistant",)
    tokens: list[int] = []
    learned: list[bool] = []
    for segment in TEMPLATE.render(CODEC.specials, turns):
        own = encode(CODEC, [segment])
        tokens += own
        learned += [segment[1] in who] * len(own)
    out, i = [], 0
    while i < len(tokens):
        if not learned[i]:
            i += 1
            continue
        end = i
        while end < len(tokens) and learned[end]:
            end += 1
        out.append((tokens[:i], tokens[i:end]))
        i = end
    return out[-1:] if "last_turn" in train_on else out


@quick
@given(dialogues, roles, sizes.map(lambda s: (s[0] + 8, s[1] + 8)))
def test_each_answer_is_a_pair(spoken: list[list[Turn]], train_on: tuple[str, ...], size: tuple[int, int]) -> None:
    (context, source), pair = size, Pair(size[1], START)
    layout = AnswerLayout(encode_dialogues(CODEC, TEMPLATE, spoken), train_on, context, END_ID, pair, None)
    expected, dropped, characters = [], {TOO_LONG: 0, NOTHING_BEFORE: 0, NOTHING_LEARNED: 0}, 0
    for turns in spoken:
        pairs = wanted(turns, train_on)
        if any(len(before) > source or len(after) > context for before, after in pairs):
            dropped[TOO_LONG] += 1
        elif any(not before for before, _ in pairs):
            dropped[NOTHING_BEFORE] += 1
        elif not pairs:
            dropped[NOTHING_LEARNED] += 1
        else:
            expected += pairs
            characters += sum(len(piece) for i in taught(turns, train_on) for piece in turns[i].content)
    last = layout.last_turns
    assert layout.dropped == dropped
    assert characters == (layout.characters if last is None else spelled(CODEC, last))
    assert int(layout.blocks_per_epoch) == len(expected)
    if not expected:
        return
    batch = read(layout, context, pair, [*range(len(expected) + 1)])
    assert [halves(batch, row) for row in range(len(expected))] == expected
    assert batch.repeated.tolist()[:-1] == [0] * len(expected) and batch.repeated[-1] == sum(map(len, expected[0]))
    counts = layout.counts(len(expected))
    assert counts.tokens_read == int(batch.read[:-1].sum()) and counts.tokens_supervised == int(
        batch.weights[:-1].sum()
    )
    for row in range(len(expected)):
        inputs, before = inputs_of(batch, row)
        filled = int(batch.filled[row])
        assert marks(CODEC, TEMPLATE, inputs, train_on)[before:] == [1] * filled
        assert not torn(batch, row, pair)


def test_a_pair_that_is_torn_is_told() -> None:
    spoken = [[Turn("user", ("abc",)), Turn("assistant", ("de",))]]
    pair = Pair(16, START)
    batch = read(
        AnswerLayout(encode_dialogues(CODEC, TEMPLATE, spoken), ("assistant",), 8, END_ID, pair, None), 8, pair, [0]
    )
    assert not torn(batch, 0, pair)
    batch.tokens[0, 0] = batch.targets[0, 0]
    assert "start token" in torn(batch, 0, pair)


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_a_phase_reads_what_it_plans(kind: str) -> None:
    spoken = [[Turn("user", ("abc" * (i % 4 + 1),)), Turn("assistant", ("de" * (i % 3 + 1),))] for i in range(9)]
    data = encode_dialogues(CODEC, TEMPLATE, spoken) if kind == "sft" else plain_set(["some text of letters"] * 20)
    phase = phase_of(kind, {"a": 100}, "12 steps", micro_batch_size=2)
    stream = PhaseStream(
        "p", phase, {"a": data}, max_epochs={"a": 99.0}, seed=3, context=12, end=END_ID, pair=Pair(20, START)
    )
    ledger = stream.ledger()
    assert isinstance(ledger, Ledger)
    for step in range(stream.steps):
        ledger.add(stream.batch(step))
    assert not ledger.differences(stream.planned())


def test_nothing_to_answer_is_refused() -> None:
    spoken = [[Turn("user", ("abc" * 40,)), Turn("assistant", ("de",))]]
    phase = phase_of("sft", {"a": 100}, "2 steps", micro_batch_size=1)
    with pytest.raises(DataError, match="1 too long"):
        PhaseStream(
            "p",
            phase,
            {"a": encode_dialogues(CODEC, TEMPLATE, spoken)},
            max_epochs={"a": 9.0},
            seed=3,
            context=12,
            end=END_ID,
            pair=Pair(20, START),
        )
