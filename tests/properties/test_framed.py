"""Rows of masked tokens between special tokens: what stands where, who reads it so, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.compiler import compile_spec
from llmspec.core.problems import SpecError
from llmspec.data.checks import data_checks
from llmspec.data.framed import FramedLayout
from llmspec.data.hidden import torn
from llmspec.data.layout import Batch, blank, random_bits
from llmspec.data.prepare import prepare
from llmspec.data.stream import layout_of
from llmspec.data.tokens import TokenSet
from llmspec.decoding.filling import masked_text
from llmspec.parts.objectives.masked_lm import MaskedLM
from llmspec.parts.phases.masked_lm import MaskedLM as Phase
from llmspec.parts.tokenizers.byte import Byte
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.parts.tokenizers.words import Vocabulary
from llmspec.spec import load_spec
from llmspec.training.prompts import check_prompts

CLS, SEP, PAD, MASK, FIRST = 0, 1, 2, 3, 4
AROUND = ((CLS,), (SEP,))
SPECIALS = SpecialTokens(
    {"[CLS]": CLS, "[SEP]": SEP, "[PAD]": PAD, "[MASK]": MASK}, pad=PAD, mask=MASK, cls=CLS, sep=SEP
)


def texts_of(batch: Batch, apart: bool) -> list[list[int]]:
    """The stretches of all rows, read from their special tokens; numbers and positions are looked at on the way."""
    found = []
    for row, filled in enumerate(batch.filled.tolist()):
        tokens, place, number = batch.tokens[row].tolist(), 0, 0
        while place < filled:
            assert tokens[place] == CLS
            end = tokens.index(SEP, place)
            text = tokens[place + 1 : end]
            assert text and min(text) >= FIRST
            span = slice(place, end + 1)
            assert (batch.documents[row, span] == (number if apart else 0)).all()
            start = 0 if apart else place
            assert batch.positions[row, span].tolist() == list(range(start, start + end + 1 - place))
            assert batch.weights[row, span].astype(bool).tolist() == [False, *[True] * len(text), False]
            found.append(text)
            place, number = end + 1, number + 1
        assert set(tokens[filled:]) <= {PAD} and not batch.weights[row, filled:].any()
        assert not apart or (batch.documents[row, filled:] == number).all()
    return found


@given(
    st.lists(st.integers(0, 23), min_size=1, max_size=9).filter(any),
    st.integers(3, 12),
    st.booleans(),
    st.sampled_from([None, ("seed",)]),
)
def test_every_token_stands_in_one_stretch(lengths: list[int], context: int, apart: bool, names: Any) -> None:
    """In stretches that are full but for a document's last; also in the second epoch, in another order."""
    ids = np.arange(FIRST, FIRST + sum(lengths)).astype(np.uint16)  # each is found again
    data = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]), np.array(lengths)[:, None])
    layout = FramedLayout(data, context, AROUND, apart, names)
    wanted = [
        ids[begin : min(begin + context - 2, end)].tolist()
        for first, end in zip(data.offsets[:-1].tolist(), data.offsets[1:].tolist(), strict=True)
        for begin in range(first, end, context - 2)
    ]
    n = int(layout.blocks_per_epoch)
    for epoch in range(2):
        batch, blocks = blank(n, context, PAD), np.arange(epoch * n, (epoch + 1) * n)
        layout.gather(batch, np.arange(n), blocks)
        found = texts_of(batch, apart)
        assert sorted(found) == sorted(wanted) and not torn(batch, AROUND)
        assert (layout.epochs(blocks) == epoch).all()
        assert batch.repeated.tolist() == (batch.filled if epoch else 0 * batch.filled).tolist()
    counts = layout.counts(2 * n)
    assert counts.tokens_read == 2 * layout.epoch_tokens == 2 * (len(ids) + 2 * len(wanted))
    assert (counts.tokens_supervised, counts.tokens_repeated) == (2 * len(ids), layout.epoch_tokens)
    assert layout.characters == sum(lengths)


@given(st.integers(0, 99), st.booleans())
def test_special_tokens_are_never_masked(seed: int, whole: bool) -> None:
    ids = np.random.default_rng(seed).integers(FIRST, 40, 50).astype(np.uint16)
    data = TokenSet(ids, np.array([0, 3, 20, 50]), np.array([[3], [17], [30]]))
    layout, batch = FramedLayout(data, 12, AROUND, True, (seed,)), blank(3, 12, PAD)
    layout.gather(batch, np.arange(3), np.arange(3))
    part = MaskedLM(mlm_probability=1.0, whole_word_mask=whole, mask_replace_prob=1.0, random_replace_prob=0.0)
    vocabulary = Vocabulary(SPECIALS, 40, lambda token: b" a")
    asked = part.asked(batch, lambda n, *names: random_bits(n, seed, *names), vocabulary)
    assert ((asked.weights > 0) == (batch.weights > 0)).all(), "all of the text, and nothing else"
    assert (asked.tokens[batch.tokens == CLS].size, (asked.tokens == CLS).sum()) == ((batch.tokens == CLS).sum(),) * 2
    assert (asked.tokens == SEP).sum() == (batch.tokens == SEP).sum()


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ([CLS, 9, SEP, CLS, 8, 8, SEP], ""),
        ([9, SEP, CLS, 8, 8, SEP], "between"),
        ([CLS, 9, SEP, CLS, 8, 8, 8], "between"),
        ([CLS, 9, CLS, 8, SEP], "between"),
        ([CLS, 9, SEP, SEP], "between"),
        ([CLS, SEP, CLS, 9, SEP], "no text"),
    ],
)
def test_the_check_sees_what_is_torn(row: list[int], wrong: str) -> None:
    batch = blank(1, 8, PAD)
    batch.tokens[0, : len(row)], batch.filled[0] = row, len(row)
    found = torn(batch, AROUND)
    assert wrong in found and bool(found) == bool(wrong)


def test_tokenizers_of_others_frame_text_and_ours_where_they_are_asked_to() -> None:
    """A spec without the key is read as before."""
    others = SpecialTokens({"[CLS]": CLS, "[SEP]": SEP}, cls=CLS, sep=SEP, named=True)
    bare = SpecialTokens({"</s>": 0}, eos=0, named=True)
    ours = Byte(special_tokens=("mask", "cls", "sep")).meanings()
    asked = {key: Phase.model_construct(add_special_tokens=key) for key in (None, True, False)}
    found = {key: [phase.around(s) is not None for s in (others, bare, ours)] for key, phase in asked.items()}
    assert found == {None: [True, False, False], True: [True, False, True], False: [False, False, False]}
    assert asked[True].around(ours) == ((ours.cls,), (ours.sep,))
    data = TokenSet(np.arange(9).astype(np.uint16), np.array([0, 9]), np.array([[9]]))
    phase = Phase.model_construct(document_mask=False)
    assert not isinstance(layout_of(data, phase, 4, 0, None), FramedLayout)


SPEC = """\
name: framed
device: CPU
model:
  context: 16
  d_model: 16
  layers: 1
  attention: {heads: 2}
  mlp: {kind: gelu, d_ff: 32}
  mask: {kind: bidirectional}
tokenizer: {kind: byte, special_tokens: [mask, cls, sep, pad]}
data: {sources: {facts: {kind: inline, documents: ["The sun is a star.", "No"], validation: tail 50%}}}
phases:
  pretrain:
    kind: masked_lm
    mixture: {facts: 100%}
    budget: 2 steps
    micro_batch_size: 2
    document_mask: true
    add_special_tokens: true
"""


@pytest.mark.parametrize(
    ("change", "path", "said", "hint"),
    [
        ("tokenizer.special_tokens=[mask, cls]", ("add_special_tokens",), "token for `sep`", "special_tokens: [sep]"),
        ("model.context=2", ("add_special_tokens",), "no room for text", "raise model.context above 2"),
        (
            "phases.pretrain.sequence_length={start: 8, until: 30%}",
            ("sequence_length",),
            "cut anywhere",
            "leave it out",
        ),
        ("phases.pretrain.prompts=['0123456789abcd[MASK]']", ("prompts", 0), "17 tokens", "shorten it by 1"),
    ],
)
def test_what_cannot_be_read_so_is_refused(change: str, path: Any, said: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        check_prompts(compile_spec(load_spec(tiny.write(tmp_path, SPEC), [change]).spec))
    problem = next(p for p in refused.value.problems if p.path == ("phases", "pretrain", *path))
    assert said in problem.message and hint in problem.hint, problem


def test_prepared_rows_and_prompts_stand_between_the_tokens(tmp_path: Path) -> None:
    prepared = prepare(compile_spec(load_spec(tiny.write(tmp_path, SPEC)).spec))
    specials, stream = prepared.codec.specials, prepared.stream("pretrain")
    around = ((specials.cls,), (specials.sep,))
    batches = [stream.batch(0), *prepared.validation("pretrain")["facts"]]
    for batch in batches:
        assert not torn(batch, around) and batch.filled.any()
        assert {*batch.tokens[np.arange(16) >= batch.filled[:, None]].tolist()} <= {specials.pad}
        first = batch.tokens[0, 1 : batch.tokens[0].tolist().index(specials.sep)].tolist()
        assert prepared.codec.decode(first) in "The sun is a star." and len(first) > 2
    framed, plain = (masked_text(prepared.codec, "a [MASK]", how) for how in (True, False))
    assert (framed.tokens[0], framed.tokens[-1]) == (specials.cls, specials.sep)
    assert framed.tokens[1:-1] == plain.tokens[1:] and plain.tokens[0] == specials.bos
    assert all(check.holds is not False for check in data_checks(prepared))
