"""Spans left out of text, against their authors' code, their law, and a plain reading of the stream."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_spans
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import phase_of
from tokenizer_files import unigram

from llmspec.compiler import compile_spec
from llmspec.core.problems import LlmspecError, SpecError
from llmspec.data.layout import Batch, Pair, blank, random_bits
from llmspec.data.ledger import Ledger
from llmspec.data.left_out import mistake
from llmspec.data.pairs import CutLayout
from llmspec.data.spans import SpanForm, SpanLayout, corrupted, drawn_spans
from llmspec.data.stream import PhaseStream
from llmspec.data.tokens import TokenSet, encode_texts
from llmspec.data.validation import ValidationSet
from llmspec.decoding.spans import filled, span_row, span_text, spans_said
from llmspec.parts.phases.span_corruption import SpanCorruption
from llmspec.parts.tokenizers.byte import Byte
from llmspec.parts.tokenizers.huggingface import HuggingFace
from llmspec.spec import load_spec
from llmspec.training.prompts import check_prompts

CODEC = Byte(sentinels=20).train(())
END, START = CODEC.specials.need("eos"), 3
SENTINELS = CODEC.specials.sentinels
quick = settings(deadline=None, max_examples=60)
documents = st.lists(st.text("abcdefgh \n", min_size=1, max_size=30), min_size=1, max_size=6)
shares = st.sampled_from([0.15, 0.3, 0.5, 0.85]), st.sampled_from([1.0, 1.5, 3.0, 10.0])


def phase(density: float = 0.15, mean: float = 3.0, **more: Any) -> SpanCorruption:
    made = {"noise_density": density, "mean_noise_span_length": mean, **more}
    found: SpanCorruption = phase_of("span_corruption", {"a": 100}, "6 steps", **made)
    return found


def form(part: SpanCorruption, size: int, start: int | None = START) -> SpanForm:
    return SpanForm(part, SENTINELS, () if start is not None else (END,), (END,), END, start, size)


def texts(found: list[str]) -> TokenSet:
    return encode_texts(CODEC, [(text,) for text in found])


# -- what is left out --------------------------------------------------------------------------------------------------
@quick
@given(st.integers(2, 600), *shares, st.integers(0, 1 << 30))
def test_exactly_as_many_tokens_and_spans_as_their_authors_leave_out(
    n: int, density: float, mean: float, i: int
) -> None:
    part = phase(density, mean)
    found = drawn_spans(part, n, random_bits(n, i))
    theirs = reference_spans.noise_mask(n, density, mean, np.random.default_rng(i))
    assert len(found) == n and found.sum() == theirs.sum() == part.spans(n).noise
    runs = [int((np.diff(np.concatenate([[0], one.astype(int)])) == 1).sum()) for one in (found, theirs)]
    assert runs[0] == runs[1] == part.spans(n).number
    assert not found[0] and found[-1]


@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_all_ways_are_as_likely(how: str) -> None:
    """10 tokens, 4 of them in 2 spans: 3 ways to part 4 in two, 5 to part 6, each drawn a fifteenth of the times."""
    part, rng, draws = phase(0.4, 2.0), np.random.default_rng(1), 6000

    def drawn(i: int) -> np.ndarray:
        return (
            drawn_spans(part, 10, random_bits(10, "x", i))
            if how == "ours"
            else reference_spans.noise_mask(10, 0.4, 2.0, rng)
        )

    found = Counter(tuple(np.flatnonzero(drawn(i)).tolist()) for i in range(draws))
    ways = [(*range(a, a + b), *range(10 - (4 - b), 10)) for a, b in ((a, b) for a in range(1, 6) for b in range(1, 4))]
    assert set(found) == set(ways) and len(ways) == 15
    expected = draws / 15
    assert sum((found[way] - expected) ** 2 / expected for way in ways) < 36  # chi² of 14: one in a thousand


@quick
@given(st.integers(2, 200), *shares, st.integers(0, 1 << 30))
def test_both_sides_are_those_of_their_code(n: int, density: float, mean: float, i: int) -> None:
    text = np.random.default_rng(i).integers(100, 200, n).astype(np.int32)
    mask = reference_spans.noise_mask(n, density, mean, np.random.default_rng(i))
    number = phase(density, mean).spans(n).number
    sentinels = [1000 - k for k in range(number)]
    read, said = corrupted(text, mask, sentinels)
    assert ([*read.tolist(), 1], [*said.tolist(), 1]) == reference_spans.pair(text, mask, sentinels, 1)
    assert (len(read), len(said)) == phase(density, mean).lengths(n)


@quick
@given(st.integers(4, 600), st.integers(3, 600), *shares, st.integers(1, 2))
def test_a_row_holds_as_much_text_as_fits(source: int, context: int, density: float, mean: float, around: int) -> None:
    part = phase(density, mean)
    fit = [
        n
        for n in range(2, source + context + 1)
        if part.lengths(n)[0] + around <= source and part.lengths(n)[1] + 1 <= context
    ]
    assert part.stretch(context, source, around) == max(fit, default=1)
    alone = [n for n in range(2, context + 1) if sum(part.lengths(n)) + around <= context]
    assert part.stretch(context, 0, around) == max(alone, default=1)


def test_inputs_of_512_are_those_of_t5() -> None:
    assert reference_spans.lengths(512, 0.15, 3.0) == (568, 114)
    part = phase()
    assert part.stretch(114, 512) == 568 and part.stretch(4096, 512) == 568
    assert [n + 1 for n in part.lengths(568)] == [512, 114]


# -- rows --------------------------------------------------------------------------------------------------------------
@quick
@given(documents, st.integers(2, 30), *shares, st.booleans(), st.integers(1, 12))
def test_rows_are_stretches_of_the_stream(
    found: list[str], size: int, density: float, mean: float, alone: bool, blocks: int
) -> None:
    part, data = phase(density, mean), texts(found)
    one = form(part, size, None if alone else START)
    layout = SpanLayout(data, 80, END, one, ("seed", "a"))
    stream = layout._stream
    every = [int(t) for t in stream._read(np.arange(blocks * size)[None])[0][0]]
    batch = read(layout, one, list(range(blocks)))
    for row in range(blocks):
        text = every[row * size : (row + 1) * size]
        assert layout.text(row).tolist() == text
        single = Batch(*(None if array is None else array[row : row + 1] for array in batch))
        assert mistake(single, text, one) == ""
    counts = layout.counts(blocks)
    assert counts.tokens_read == int(batch.read.sum()) and counts.tokens_supervised == int(batch.weights.sum())
    assert counts.least == int(batch.weights.sum(1).min()) and counts.tokens_repeated == int(batch.repeated.sum())
    again = read(layout, one, [blocks - 1])
    assert (again.targets[0] == batch.targets[blocks - 1]).all()


def read(layout: SpanLayout | CutLayout, one: SpanForm | None, blocks: list[int], context: int = 80) -> Batch:
    pair = None if one is None or one.start is None else Pair(80, one.start)
    batch = blank(len(blocks), context, END, pair)
    layout.gather(batch, np.arange(len(blocks)), np.array(blocks, np.int64))
    return batch


def test_spans_are_drawn_anew_each_time_a_text_is_read() -> None:
    one = form(phase(0.3), 26)
    layout = SpanLayout(texts(["abcdefghijklmnopqrstuvwxy"]), 80, END, one, (1, "p"))
    assert layout.epoch_tokens == 26
    found = {tuple(layout.sides(epoch)[0].tolist()) for epoch in range(20)}
    assert len({tuple(layout.text(epoch).tolist()) for epoch in range(20)}) == 1 and len(found) > 12
    other = SpanLayout(texts(["abcdefghijklmnopqrstuvwxy"]), 80, END, one, (2, "p"))
    assert [layout.sides(i)[0].tolist() for i in range(3)] != [other.sides(i)[0].tolist() for i in range(3)]


@quick
@given(documents, st.integers(2, 30), st.integers(1, 3))
def test_validation_reads_every_token_once(found: list[str], size: int, rows: int) -> None:
    part, data = phase(micro_batch_size=rows), texts(found)
    one = form(part, size)
    held = ValidationSet("a", part, data, 80, END, None, Pair(80, START), spans=one)
    seen, supervised = [], 0.0
    for batch in held:
        for row in range(rows):
            if not batch.filled[row]:
                continue
            assert batch.encoder_tokens is not None and batch.encoder_filled is not None
            source = batch.encoder_tokens[row, : batch.encoder_filled[row] - 1].tolist()
            spans = span_parts(batch.targets[row, : batch.filled[row] - 1].tolist())
            seen += [t for token in source for t in spans.get(token, [token])]
        supervised += float(batch.weights.sum())
    every = SpanLayout(data, 80, END, one, None)._stream._read(np.arange(data.tokens.size + len(found))[None])[0][0]
    whole = every.tolist()
    assert seen == whole[: len(whole) - (len(whole) % size == 1)]
    assert supervised == held.tokens


def span_parts(said: list[int]) -> dict[int, list[int]]:
    parts: dict[int, list[int]] = {}
    for token in said:
        if token in SENTINELS:
            parts[token] = []
        else:
            parts[list(parts)[-1]].append(token)
    return parts


def test_a_stream_is_counted_and_has_its_key() -> None:
    data = {"a": texts(["some text of nineteen words, " * 20])}
    made = [
        PhaseStream("p", part, data, max_epochs={"a": 9.0}, seed=1, context=80, end=END, pair=Pair(80, START),
                    spans=form(part, size))
        for part, size in ((phase(), 26), (phase(0.3), 26), (phase(), 30), (phase(), 26))
    ]  # fmt: skip
    assert len({stream.key for stream in made}) == 3 and made[0].key == made[3].key
    stream, ledger = made[0], Ledger({"a": 0})
    for step in range(stream.steps):
        ledger.add(stream.batch(step))
    assert ledger.differences(stream.planned()) == []


def test_records_count_as_they_weigh() -> None:
    """A token that is left out as its document, a sentinel as the span behind it, the end token as what it ends."""
    data = texts(["a" * 9, "b" * 9])._replace(weights=np.array([2.0, 0.5], np.float32))
    one = form(phase(0.5, 2.0), 20)
    layout = SpanLayout(data, 80, END, one, (1,))
    batch = read(layout, one, [0, 1])
    of = {CODEC.encode([letter])[0][0]: weight for letter, weight in (("a", 2.0), ("b", 0.5))}
    seen = 0
    for row in range(2):
        filled = int(batch.filled[row])
        said, weights = batch.targets[row, :filled].tolist(), batch.weights[row, :filled].tolist()
        for i, token in enumerate(said):
            if token in of:
                assert weights[i] == of[token]
                assert said[i - 1] not in SENTINELS or weights[i - 1] == weights[i]
                seen += 1
    assert seen > 10 and (SpanLayout(data, 80, END, one, None).weighs is None)


def off_by_one(batch: Batch) -> None:
    batch.targets[0][np.isin(batch.targets[0], SENTINELS)] += 1


def wrong_end(batch: Batch) -> None:
    batch.targets[0, batch.filled[0] - 1] = START


def wrong_side(batch: Batch) -> None:
    batch.weights[0, : batch.filled[0]] = 1 - batch.weights[0, : batch.filled[0]]


def token_lost(batch: Batch) -> None:
    assert batch.encoder_tokens is not None
    batch.encoder_tokens[0, 0] = batch.encoder_tokens[0, 0] + 1


@pytest.mark.parametrize("wrong", [off_by_one, wrong_end, wrong_side, token_lost])
def test_a_row_that_is_wrong_is_seen(wrong: Any) -> None:
    one = form(phase(), 26)
    layout = SpanLayout(texts(["abcdefgh " * 9]), 80, END, one, (1,))
    batch = read(layout, one, [0])
    assert mistake(batch, layout.text(0).tolist(), one) == ""
    wrong(batch)
    assert mistake(batch, layout.text(0).tolist(), one)


# -- prompts -----------------------------------------------------------------------------------------------------------
def test_prompts_and_what_is_said_of_them() -> None:
    given = span_text(CODEC, "The <extra_id_0> walks in [MASK] park<|extra_id_2|>.")
    assert given.pieces == ("The ", " walks in ", " park", ".")
    ids = list(given.ids)
    assert [t for t in ids if t in SENTINELS] == list(SENTINELS[:3])
    assert span_row(CODEC, ids).pieces == given.pieces
    said = [SENTINELS[0], *CODEC.encode(["cat"])[0], SENTINELS[2], *CODEC.encode(["!"])[0], SENTINELS[0], 70, END, 71]
    spans = spans_said(CODEC, said, 3)
    assert spans == ["cat", "", "!"] and filled(given.pieces, spans) == "The cat walks in  park!."
    for wrong, why in (("nothing", "no <extra_id_0>"), ("<extra_id_1>", "place 1"), ("[MASK]" * 21, "21 places")):
        with pytest.raises(LlmspecError, match=why):
            span_text(CODEC, wrong)
    with pytest.raises(LlmspecError, match="no sentinels"):
        span_text(Byte().train(()), "<extra_id_0>")


def test_text_never_becomes_a_sentinel() -> None:
    assert not set(CODEC.encode(["<|extra_id_0|> <extra_id_0>"])[0]) & set(SENTINELS)
    with pytest.raises(ValueError, match="already"):
        Byte(markers=("<|extra_id_1|>",), sentinels=2)
    assert Byte(markers=("<|other|>",), sentinels=2).meanings().sentinels == (7, 8)


def test_those_of_a_t5_tokenizer_are_known(tmp_path: Path) -> None:
    made = unigram()
    made.add_special_tokens([f"<extra_id_{i}>" for i in (4, 3, 2, 1, 0)])
    made.save(str(tmp_path / "tokenizer.json"))
    part = HuggingFace(file="tokenizer.json", eos="</s>").at(str(tmp_path))
    opened = part.opened(str(tmp_path))
    assert opened["sentinels"].value == 5
    found = part.train(()).specials
    assert found.sentinels == tuple(found[f"<extra_id_{i}>"] for i in range(5))
    assert found.sentinels[0] > found.sentinels[4]


# -- prefix LM ---------------------------------------------------------------------------------------------------------
@quick
@given(documents, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_all_behind_a_cut_counts(found: list[str], context: int, blocks: int, apart: bool) -> None:
    layout = CutLayout(texts(found), context, END, apart, (1, "a"))
    batch = read(layout, None, list(range(blocks)), context)
    for row, cut in enumerate(layout.cuts(np.arange(blocks)).tolist()):
        assert 1 <= cut <= context
        assert batch.weights[row].tolist() == [0] * (cut - 1) + [1] * (context - cut + 1)
    counts = layout.counts(blocks)
    assert counts.tokens_supervised == int(batch.weights.sum()) and counts.least == int(batch.weights.sum(1).min())


def test_every_cut_is_drawn_as_often() -> None:
    layout = CutLayout(texts(["abc" * 40]), 8, END, False, (1, "p"))
    found = np.bincount(layout.cuts(np.arange(8000)), minlength=9)
    assert found[0] == 0 and found[1:].min() > 880
    assert np.array_equal(layout.cuts(np.array([7999, 5])), layout.cuts(np.arange(8000))[[7999, 5]])


# -- what is refused before step 0 -------------------------------------------------------------------------------------
SPEC = """\
name: spans
device: CPU
model:
  context: 24
  d_model: 16
  layers: 1
  attention: {heads: 2}
  mlp: {kind: gelu, d_ff: 32}
  encoder: {layers: 1, context: 48}
tokenizer: {kind: byte, sentinels: 3}
data: {sources: {docs: {kind: python_docs, validation: tail 1%}}}
phases:
  pretrain:
    kind: span_corruption
    mixture: {docs: 100%}
    budget: 12 steps
    micro_batch_size: 4
    prompts: ["the <extra_id_0> statement"]
"""


@pytest.mark.parametrize(
    ("change", "key", "said", "hint"),
    [
        ("tokenizer.sentinels=null", ("kind",), "needs sentinel tokens", "sentinels: 100"),
        ("tokenizer.sentinels=2", ("kind",), "3 spans are left out", "sentinels: 3"),
        ("phases.pretrain.noise_density=0.3", ("noise_density",), "spans are left out", "smaller noise_density"),
        ("model.encoder=null", ("kind",), "under the mask causal", "model.encoder"),
        ("model.encoder.context=2", ("kind",), "no text fits rows of 2 and 24", "model.encoder.context"),
        ("phases.pretrain.document_mask=true", ("document_mask",), "not kept apart", "false"),
        ("phases.pretrain.mean_noise_span_length=0.5", ("mean_noise_span_length",), "", ""),
        ("phases.pretrain.prompts=[no place]", ("prompts", 0), "no <extra_id_0>", "<extra_id_0>"),
        ("phases.pretrain.prompts=['<extra_id_0> 01234567890123456789012345678901234567890123456']",
         ("prompts", 0), "encoder reads 48", "shorten it"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_so_is_refused(
    change: str, key: tuple[Any, ...], said: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as refused:
        check_prompts(compile_spec(load_spec(tiny.write(tmp_path, SPEC), [change]).spec))
    problem = next(p for p in refused.value.problems if p.path == ("phases", "pretrain", *key))
    assert said in problem.message and hint in problem.hint, problem


def test_a_decoder_with_a_prefix_reads_both_in_a_row(tmp_path: Path) -> None:
    changes = ["model.encoder=null", "model.mask={kind: prefix}", "model.context=48"]
    plan = compile_spec(load_spec(tiny.write(tmp_path, SPEC), changes).spec)
    (planned,) = plan.phases
    assert planned.makes == "policy" and planned.phase.stretch(48, 0) == 42
