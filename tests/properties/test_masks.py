"""What a mask hides has no influence: not on logits, not on losses, not on gradients; most of it bit for bit."""

from __future__ import annotations

import networks
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from networks import CONTEXT, EPS, FEW, NETWORKS, PAIRS, ROWS, VOCAB, drawn_tokens, drawn_weights
from tinygrad import Tensor

from llmspec.compiler.masks import Mask
from llmspec.model.lowering import lowering

seeds = st.integers(0, 2**32 - 1)
some = settings(deadline=None, max_examples=5)
cuts = st.integers(1, CONTEXT - 1)


def changed(tokens: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Other tokens at every one of these places."""
    return np.where(where, (tokens + 1 + tokens % (VOCAB - 1)) % VOCAB, tokens).astype(np.int32)


def documents(*cuts_of_rows: tuple[int, ...]) -> np.ndarray:
    """Documents that start at 0 and at each cut of a row."""
    return np.stack([np.searchsorted(c, np.arange(CONTEXT), "right") for c in cuts_of_rows]).astype(np.int32)


# -- the relation ---------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.int32, st.integers(1, 9), elements=st.integers(0, 2)))
def test_a_query_sees_its_own_past(docs: np.ndarray) -> None:
    place = np.arange(len(docs))
    causal = Mask().allows(place[:, None], place[None])
    within = Mask(documents=True).allows(place[:, None], place[None], docs[:, None], docs[None])
    for q in place:
        for k in place:
            assert causal[q, k] == (k <= q) and within[q, k] == (k <= q and docs[q] == docs[k])


# -- logits ---------------------------------------------------------------------------------------------------------


def check_the_past(name: str, seed: int, cut: int, plain: bool) -> None:
    weights, tokens = drawn_weights(NETWORKS[name].model, seed), drawn_tokens(seed)
    later = np.arange(CONTEXT)[None] >= np.array([[cut], [CONTEXT - cut]])
    first = networks.logits(name, weights, tokens, plain=plain)
    second = networks.logits(name, weights, changed(tokens, later), plain=plain)
    assert (first == second)[~later].all()
    assert (first != second)[later].any(-1).all()


@pytest.mark.parametrize("name", PAIRS)
@some
@given(seeds, cuts)
def test_later_tokens_never_change_earlier_logits(name: str, seed: int, cut: int) -> None:
    check_the_past(name, seed, cut, plain=False)


@pytest.mark.parametrize("name", FEW)
@some
@given(seeds, cuts)
def test_nor_in_plain_operations(name: str, seed: int, cut: int) -> None:
    check_the_past(name, seed, cut, plain=True)


@pytest.mark.parametrize("name", PAIRS)
@some
@given(seeds, st.lists(cuts, min_size=2, max_size=2, unique=True).map(sorted))
def test_documents_never_change_one_anothers_logits(name: str, seed: int, cut: list[int]) -> None:
    weights, tokens = drawn_weights(NETWORKS[name].model, seed), drawn_tokens(seed)
    docs = documents((cut[0], cut[1]), (cut[0],))
    first = networks.logits(name, weights, tokens, docs)
    for row in range(ROWS):
        for document in range(docs[row].max() + 1):
            own = (docs == document) & (np.arange(ROWS)[:, None] == row)
            second = networks.logits(name, weights, changed(tokens, ~own), docs)
            assert (first == second)[own].all() and (first != second)[~own].any(-1).all()


# -- losses and gradients -------------------------------------------------------------------------------------------


def batch(seed: int, docs: np.ndarray, counted: np.ndarray) -> networks.Arrays:
    """A batch in which the counted targets have drawn shares of the loss, and the others none."""
    shares = np.random.default_rng([seed, 6]).uniform(0.1, 1, (ROWS, CONTEXT)) * counted
    return {"tokens": drawn_tokens(seed), "targets": drawn_tokens(seed + 1), "documents": docs,
            "shares": shares.astype(np.float32)}


def same(name: str, weights: networks.Arrays, one: networks.Arrays, other: networks.Arrays) -> None:
    """Loss and gradients of two batches are the same bits, except that zeros may differ in sign."""
    (loss, g), (loss2, g2) = (networks.gradients(name, weights, b) for b in (one, other))
    assert np.isfinite(loss) and loss == loss2 and loss > 0
    for tensor in g:
        assert (g[tensor] == g2[tensor]).all(), tensor


@pytest.mark.parametrize("name", FEW)
@some
@given(seeds, cuts)
def test_a_document_adds_the_same_whatever_stands_beside_it(name: str, seed: int, cut: int) -> None:
    weights, docs = drawn_weights(NETWORKS[name].model, seed), documents((cut,), (CONTEXT - cut,))
    for document in range(2):
        own = docs == document
        one = batch(seed, docs, own)
        other = {**one, "tokens": changed(one["tokens"], ~own), "targets": changed(one["targets"], ~own)}
        same(name, weights, one, other)


@pytest.mark.parametrize("name", FEW)
@some
@given(seeds, st.integers(0, 2 ** (ROWS * CONTEXT) - 2), cuts)
def test_unlearned_targets_and_padding_change_nothing(name: str, seed: int, bits: int, cut: int) -> None:
    weights, docs = drawn_weights(NETWORKS[name].model, seed), np.zeros((ROWS, CONTEXT), np.int32)
    learned = (bits >> np.arange(ROWS * CONTEXT) & 1 == 0).reshape(ROWS, CONTEXT)
    one = batch(seed, docs, learned)
    same(name, weights, one, {**one, "targets": changed(one["targets"], ~learned)})
    filled = np.broadcast_to(np.arange(CONTEXT) < cut, (ROWS, CONTEXT))
    one = batch(seed, docs, filled)
    other = {**one, "tokens": changed(one["tokens"], ~filled), "targets": changed(one["targets"], ~filled)}
    same(name, weights, one, other)


@pytest.mark.parametrize("name", FEW)
@some
@given(seeds, cuts)
def test_packed_documents_add_up_to_the_unpacked_ones(name: str, seed: int, cut: int) -> None:
    plan, weights = NETWORKS[name].model, drawn_weights(NETWORKS[name].model, seed)
    docs = documents((cut,), (CONTEXT - cut,))
    packed = batch(seed, docs, np.ones((ROWS, CONTEXT)))
    loss, g = networks.gradients(name, weights, packed)
    total, sums = 0.0, dict.fromkeys(g, 0.0)
    for row in range(ROWS):
        for document in range(2):  # alone in the first row, from its start; the rest of the batch is padding
            own = np.flatnonzero(docs[row] == document)
            alone = {k: np.zeros_like(v) for k, v in packed.items()}
            for key in ("tokens", "targets", "shares"):
                alone[key][0, : len(own)] = packed[key][row, own]
            part, gradient = networks.gradients(name, weights, alone)
            total, sums = total + part, {k: sums[k] + gradient[k].astype(np.float64) for k in sums}
    assert loss == pytest.approx(total, rel=200 * EPS)
    assert loss == pytest.approx(reference.loss(plan, weights, packed, networks.smoothing(name)), rel=400 * EPS)
    whole = np.sqrt(sum((s**2).sum() for s in sums.values()))
    for tensor, s in sums.items():
        assert np.linalg.norm(g[tensor] - s) < 400 * EPS * (np.linalg.norm(s) + whole / 8), tensor


# -- the softmax itself ---------------------------------------------------------------------------------------------

B, H, T, S = 2, 3, 4, 5
floats = st.floats(-1e4, 1e4, width=32)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_masked_places_are_exactly_zero(plain: bool, shared: bool) -> None:
    low, inputs = lowering("CPU", plain), networks.Inputs()

    @low.jit
    def graph(t: dict[str, Tensor], handles: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        p = low.ops(handles).softmax(t["x"], t["mask"])
        (back,) = (p * t["g"]).sum().gradient(t["x"])
        out = p.contiguous(), back.contiguous()
        Tensor.realize(*out)
        return out

    @settings(deadline=None, max_examples=25)
    @given(hnp.arrays(np.float32, (B, H, T, S), elements=floats),
           hnp.arrays(bool, (1 if shared else B, 1, T, S)), seeds)
    def check(x: np.ndarray, mask: np.ndarray, seed: int) -> None:
        g = np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)
        made = graph(inputs.put({"x": x, "mask": mask, "g": g}), low.inputs)
        p, back = (networks.memory(out).copy() for out in made)
        seen = np.broadcast_to(mask, x.shape)
        assert np.isfinite(p).all() and np.isfinite(back).all()
        assert (p[~seen] == 0).all() and (back[~seen] == 0).all() and (p >= 0).all()
        np.testing.assert_allclose(p.astype(np.float64).sum(-1), seen.any(-1), rtol=0, atol=4 * S * EPS)
        # Differences of scores are rounded too, at most 104 of them before e^x is nothing.
        np.testing.assert_allclose(p, reference.softmax(x.astype(np.float64), seen), rtol=400 * EPS, atol=1e-37)

    check()
