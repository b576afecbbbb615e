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

from llmspec.backends.backend import backend
from llmspec.compiler.masks import Relation
from llmspec.parts.ops import Scores

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
    causal = Relation().allows(place[:, None], place[None])
    within = Relation(documents=True).allows(place[:, None], place[None], docs[:, None], docs[None])
    for q in place:
        for k in place:
            assert causal[q, k] == (k <= q) and within[q, k] == (k <= q and docs[q] == docs[k])


@given(st.integers(1, 3), st.integers(1, 20), st.data())
def test_spans_are_the_relation(rows: int, tokens: int, data: st.DataObject) -> None:
    """For document numbers that never fall, as blocks have them: that is when a span can say it all."""
    steps = data.draw(hnp.arrays(np.int32, (rows, tokens), elements=st.integers(0, 2)))
    docs, place = np.cumsum(steps, axis=1).astype(np.int32), np.arange(tokens)
    for mask in (Relation(), Relation(documents=True)):
        made = mask.ranges(tokens, docs)
        assert made.dtype == np.int32 and made.shape == (rows if mask.documents else 1, tokens, 2)
        allowed = mask.allows(place[:, None], place[None], docs[:, :, None], docs[:, None])
        assert (networks.seen_by(made, tokens) == allowed).all()
    assert (Relation().ranges(tokens) == Relation().ranges(tokens, docs)).all()


# -- logits ---------------------------------------------------------------------------------------------------------


ADDING = networks.adding(FEW)


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
    return {
        "tokens": drawn_tokens(seed),
        "targets": drawn_tokens(seed + 1),
        "documents": docs,
        "loss_weights": shares.astype(np.float32),
    }


def same(name: str, weights: networks.Arrays, one: networks.Arrays, other: networks.Arrays) -> None:
    """Loss and gradients of two batches are the same bits, except that zeros may differ in sign; of experts, which sum
    in the order of the tokens that share them, but for rounding."""
    (loss, g), (loss2, g2) = (networks.gradients(name, weights, b) for b in (one, other))
    room = 400 * EPS * networks.routes(name)
    whole = np.sqrt(sum(float((part.astype(np.float64) ** 2).sum()) for part in g.values()))
    assert np.isfinite(loss) and loss == pytest.approx(loss2, rel=room, abs=0) and loss > 0
    for tensor in g:
        assert np.linalg.norm(g[tensor] - g2[tensor]) <= room * (np.linalg.norm(g[tensor]) + whole / 8), tensor


def test_the_law_of_padding_has_experts_that_are_balanced() -> None:
    assert set(FEW) - set(ADDING)


@pytest.mark.parametrize("name", [*FEW, networks.UNBALANCED])
@some
@given(seeds, cuts)
def test_a_document_adds_the_same_whatever_stands_beside_it(name: str, seed: int, cut: int) -> None:
    weights, docs = drawn_weights(NETWORKS[name].model, seed), documents((cut,), (CONTEXT - cut,))
    for document in range(2):
        own = docs == document
        one = batch(seed, docs, own)
        other = {**one, "tokens": changed(one["tokens"], ~own), "targets": changed(one["targets"], ~own)}
        if name in ADDING:
            same(name, weights, one, other)
        else:  # what spreads tokens over experts looks at both documents, the objective at one
            losses = [networks.gradients(name, weights, b) and networks.told(name)["loss"] for b in (one, other)]
            assert losses[0] == pytest.approx(losses[1], rel=400 * EPS)


@pytest.mark.parametrize("name", [*FEW, networks.UNBALANCED])
@some
@given(seeds, st.integers(0, 2 ** (ROWS * CONTEXT) - 2), cuts)
def test_unlearned_targets_and_padding_change_nothing(name: str, seed: int, bits: int, cut: int) -> None:
    weights, docs = drawn_weights(NETWORKS[name].model, seed), np.zeros((ROWS, CONTEXT), np.int32)
    learned = (bits >> np.arange(ROWS * CONTEXT) & 1 == 0).reshape(ROWS, CONTEXT)
    one = batch(seed, docs, learned)
    same(name, weights, one, {**one, "targets": changed(one["targets"], ~learned)})
    filled = np.broadcast_to(np.arange(CONTEXT) < cut, (ROWS, CONTEXT))
    one = {**batch(seed, docs, filled), "filled": filled.astype(np.int32)}
    other = {**one, "tokens": changed(one["tokens"], ~filled), "targets": changed(one["targets"], ~filled)}
    same(name, weights, one, other)


@pytest.mark.parametrize("name", ADDING)
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
            for key in ("tokens", "targets", "loss_weights"):
                alone[key][0, : len(own)] = packed[key][row, own]
            alone["documents"][0, len(own) :] = 1
            part, gradient = networks.gradients(name, weights, alone)
            total, sums = total + part, {k: sums[k] + gradient[k].astype(np.float64) for k in sums}
    assert loss == pytest.approx(total, rel=200 * EPS)
    assert loss == pytest.approx(reference.loss(plan, weights, packed, networks.smoothing(name)), rel=400 * EPS)
    whole = np.sqrt(sum((s**2).sum() for s in sums.values()))
    for tensor, s in sums.items():
        assert np.linalg.norm(g[tensor] - s) < 400 * EPS * (np.linalg.norm(s) + whole / 8), tensor


# -- attention itself -----------------------------------------------------------------------------------------------

B, H, K, T, S, D = 2, 3, 1, 4, 5, 2
floats = st.floats(-50, 50, width=32)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_hidden_keys_have_no_weight_and_no_gradient(plain: bool, shared: bool) -> None:
    """Not even where they are huge; a query that sees nothing gives zeros and teaches nothing."""
    low, inputs = backend("CPU", plain), networks.Inputs()

    @low.jit
    def graph(t: dict[str, Tensor], handles: dict[str, Tensor]) -> tuple[Tensor, ...]:
        y = low.ops(handles).attention(t["q"], t["k"], t["v"], t["spans"], Scores())
        out = [x.contiguous() for x in (y, *(y * t["g"]).sum().gradient(t["q"], t["k"], t["v"]))]
        Tensor.realize(*out)
        return tuple(out)

    def run(q: np.ndarray, k: np.ndarray, v: np.ndarray, g: np.ndarray, spans: np.ndarray) -> list[np.ndarray]:
        return [
            networks.memory(x).copy()
            for x in graph(inputs.put({"q": q, "k": k, "v": v, "g": g, "spans": spans}), low.inputs)
        ]

    @settings(deadline=None, max_examples=25)
    @given(
        hnp.arrays(np.float32, (B, T, H, D), elements=floats),
        hnp.arrays(np.float32, (B, S, K, D), elements=floats),
        hnp.arrays(np.int32, (1 if shared else B, T, 2), elements=st.integers(0, S)),
        seeds,
    )
    def check(q: np.ndarray, k: np.ndarray, ends: np.ndarray, seed: int) -> None:
        spans = np.sort(ends, axis=-1)
        rng = np.random.default_rng(seed)
        v, g = (rng.standard_normal(shape).astype(np.float32) for shape in (k.shape, q.shape))
        y, to_q, to_k, to_v = run(q, k, v, g, spans)
        seen = np.broadcast_to(networks.seen_by(spans, S), (B, T, S))
        scores = np.einsum("bthd,bskd->bhts", q.astype(np.float64), k.astype(np.float64)) / np.sqrt(D)
        weights = reference.softmax(scores, seen[:, None])
        # Products of scores are rounded, and e^x passes that on.
        room = EPS * (64 + 4 * np.abs(scores).max()) * np.abs(v).max()
        np.testing.assert_allclose(y, np.einsum("bhts,bskd->bthd", weights, v.astype(np.float64)), rtol=0, atol=room)
        blind = ~seen.any(-1)
        assert (y[blind] == 0).all() and (to_q[blind] == 0).all()
        never = ~seen.any(1)
        assert (to_k[never] == 0).all() and (to_v[never] == 0).all()
        huge = np.where(never[:, :, None, None], np.float32(1e18), k)
        assert all((a == b).all() for a, b in zip((y, to_q, to_k, to_v), run(q, huge, v, g, spans), strict=True))

    check()
