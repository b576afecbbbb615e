"""With a document mask and no dropout, packed blocks cost and teach what their whole documents do, each by itself.

From the layouts that training reads to the graph that trains, on dialogues and on text.
"""

from __future__ import annotations

import networks
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import CONTEXT, EPS, FEW, NETWORKS, ROWS, VOCAB, adding, drawn_weights

from llmspec.compiler.masks import Relation
from llmspec.data.layout import Batch, PlainLayout, blank
from llmspec.data.packing import DialogueLayout, pad_after
from llmspec.data.tokens import encode_dialogues, encode_texts
from llmspec.parts.templates import TABLE as TEMPLATES
from llmspec.parts.templates.base import Turn
from llmspec.parts.tokenizers import TABLE
from llmspec.parts.tokenizers.special_tokens import EOS, ROLES

TEMPLATE = TEMPLATES["role_tokens"]()
CODEC = TABLE["char"](vocab=VOCAB).train(["abcdefgh .,"])
END_ID = CODEC.specials[EOS]
some = settings(deadline=None, max_examples=4)
seeds = st.integers(0, 2**32 - 1)
word = st.text("abcdefgh", max_size=4)
turns = st.lists(st.builds(Turn, st.sampled_from(ROLES), st.tuples(word.filter(bool))), min_size=1, max_size=2)


def test_every_token_has_a_row() -> None:
    assert CODEC.vocab <= VOCAB and all(not NETWORKS[name].model.dropout for name in FEW)


def graph_batch(batch: Batch, shares: np.ndarray) -> networks.Arrays:
    return {
        "tokens": batch.tokens,
        "targets": batch.targets,
        "documents": batch.documents,
        "loss_weights": shares.astype(np.float32),
    }


def apart_from_padding(batch: Batch, filled: int) -> None:
    """A document alone in the first row is as long as it is, whatever stands behind it."""
    pad_after(batch, np.array([0]), batch.documents[0, [filled - 1]] + 1, np.array([filled]))


def spans_say_all(batch: Batch) -> None:
    """A batch's spans are its mask's relation, padding and all."""
    mask, place, docs = Relation(documents=True), np.arange(CONTEXT), batch.documents
    allowed = mask.allows(place[:, None], place[None], docs[:, :, None], docs[:, None])
    assert (networks.seen_by(mask.ranges(CONTEXT, docs), CONTEXT) == allowed).all()


def check(name: str, seed: int, packed: Batch, alone: list[Batch]) -> None:
    """The packed batch's mean loss and gradients are those of the batches that hold one document each."""
    for batch in (packed, *alone):
        spans_say_all(batch)
    weights = drawn_weights(NETWORKS[name].model, seed)
    total = float(packed.weights.sum())
    assert total and total == sum(float(b.weights.sum()) for b in alone)
    loss, g = networks.gradients(name, weights, graph_batch(packed, packed.weights / total))
    # Alone, each by its own mean; together in proportion to the targets that each has.
    parts = [(float(b.weights.sum()), b) for b in alone if b.weights.any()]
    found = [(n, networks.gradients(name, weights, graph_batch(b, b.weights / n))) for n, b in parts]
    expected = sum(n * part for n, (part, _) in found) / total
    assert loss == pytest.approx(expected, rel=400 * EPS) and loss > 0
    sums = {k: sum(n / total * part[k].astype(np.float64) for n, (_, part) in found) for k in g}
    whole = np.sqrt(sum((s**2).sum() for s in sums.values()))
    for tensor, s in sums.items():
        assert np.linalg.norm(g[tensor] - s) < 400 * EPS * (np.linalg.norm(s) + whole / 8), tensor


@pytest.mark.parametrize("name", adding(FEW))
@some
@given(seed=seeds, spoken=st.lists(turns, min_size=2, max_size=5), learn=st.sets(st.sampled_from(ROLES), min_size=1))
def test_packed_dialogues_cost_what_they_cost_alone(
    name: str, seed: int, spoken: list[list[Turn]], learn: set[str]
) -> None:
    def layout(dialogues: list[list[Turn]], mask: bool = True) -> DialogueLayout:
        return DialogueLayout(encode_dialogues(CODEC, TEMPLATE, dialogues), tuple(learn), CONTEXT, END_ID, mask, None)

    together = layout(spoken)
    assume(0 < together.blocks_per_epoch <= ROWS)
    packed = blank(ROWS, CONTEXT, END_ID)
    blocks = np.arange(int(together.blocks_per_epoch))
    together.gather(packed, blocks, blocks)
    alone = []
    for dialogue in spoken:
        by_itself = layout([dialogue], mask=False)
        if by_itself.blocks_per_epoch:
            alone.append(blank(ROWS, CONTEXT, END_ID))
            by_itself.gather(alone[-1], np.array([0]), np.array([0]))
            apart_from_padding(alone[-1], int(alone[-1].filled[0]))
    check(name, seed, packed, alone)


@pytest.mark.parametrize("name", adding(FEW))
@some
@given(seed=seeds, documents=st.lists(word, min_size=1, max_size=5))
def test_packed_texts_cost_what_they_cost_alone(name: str, seed: int, documents: list[str]) -> None:
    """Whole documents: those that end within the block. The rest of the block is padded, as in validation."""
    layout = PlainLayout(encode_texts(CODEC, [(text,) for text in documents]), CONTEXT, END_ID, True, None)
    packed = blank(ROWS, CONTEXT, END_ID)
    layout.gather(packed, np.array([0]), np.array([0]))
    lengths = [len(text) + 1 for text in documents]  # the EOS before each is its first input
    ends = [end for end in np.cumsum(lengths).tolist() if end <= CONTEXT]
    assume(ends)
    packed.weights[0, ends[-1] :] = 0
    alone = []
    for start, end in zip([0, *ends], ends, strict=False):
        alone.append(blank(ROWS, CONTEXT, END_ID))
        for field in ("tokens", "targets", "weights"):
            getattr(alone[-1], field)[0, : end - start] = getattr(packed, field)[0, start:end]
        apart_from_padding(alone[-1], end - start)
    check(name, seed, packed, alone)


@pytest.mark.parametrize("name", FEW)
def test_without_the_mask_it_is_another_loss(name: str) -> None:
    """So that the laws above do not hold for want of anything to see."""
    weights = drawn_weights(NETWORKS[name].model, 5)
    data = encode_dialogues(CODEC, TEMPLATE, [[Turn("assistant", ("abc",))], [Turn("assistant", ("hgf",))]])
    losses = []
    for mask in (True, False):
        layout, batch = DialogueLayout(data, ("assistant",), CONTEXT, END_ID, mask, None), blank(ROWS, CONTEXT, END_ID)
        layout.gather(batch, np.array([0]), np.array([0]))
        assert int(batch.filled[0]) == 10
        losses.append(networks.gradients(name, weights, graph_batch(batch, batch.weights))[0])
    assert losses[0] != losses[1]
