"""Pairs of texts: which stand in a row together, which are compared, that loss and gradients are those of the formulas,
and that scores are what their definitions say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import EPS, drawn_weights

from llmspec.backends.backend import backend
from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.data.apart import PairAsking, repeated
from llmspec.data.asking import asking_of
from llmspec.data.documents import DocumentLayout
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Batch, blank
from llmspec.data.tokens import TokenSet
from llmspec.data.whole import known, mistake
from llmspec.parts.objectives.contrastive import OTHER, OWN, Contrastive
from llmspec.parts.tokenizers.special_tokens import ROLES
from llmspec.spec.schema import Spec
from llmspec.training.retrieval import retrieval_scores
from llmspec.training.trainer import Trainer

quick = settings(deadline=None, max_examples=40)
CONTEXT = 24


def tokens_of(pairs: list[tuple[list[int], list[int]]], vocab: int = 400) -> TokenSet:
    """Records of two texts of tokens, as the token files hold them."""
    asks, answers = ROLES.index("user"), ROLES.index("assistant")
    roles = np.zeros((len(pairs), len(ROLES)), np.int64)
    roles[:, asks], roles[:, answers] = [len(a) for a, _ in pairs], [len(b) for _, b in pairs]
    ids = np.array([i for a, b in pairs for i in (*a, *b)], np.uint16)
    codes = np.array([c for a, b in pairs for c in [1 + asks] * len(a) + [1 + answers] * len(b)], np.uint8)
    offsets = np.concatenate([[0], np.cumsum(roles.sum(1))]).astype(np.int64)
    return TokenSet(ids, offsets, roles.copy(), role_of_token=codes, tokens_per_role=roles, vocab=vocab)


def read(layout: DocumentLayout, how: PairAsking, blocks: np.ndarray, context: int = CONTEXT) -> Batch:
    batch = blank(len(blocks), context, 0)._replace(labels=how.blank(len(blocks)))
    layout.gather(batch, np.arange(len(blocks)), blocks)
    return batch


def texts_of(batch: Batch, row: int) -> list[list[int]]:
    filled = int(batch.filled[row])
    numbers = batch.documents[row, :filled]
    return [batch.tokens[row, :filled][numbers == i].tolist() for i in range(int(numbers.max(initial=-1)) + 1)]


LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=30)


@given(LENGTHS, st.booleans(), st.booleans(), st.sampled_from([CONTEXT, 9]))
@quick
def test_every_pair_is_read_once_an_epoch_in_one_row(
    lengths: list[tuple[int, int]], truncation: bool, shuffled: bool, longest: int
) -> None:
    drawn = [([10 + i] * a, [60 + i] * b) for i, (a, b) in enumerate(lengths)]
    how, data = PairAsking(((1,), (2,)), longest, truncation, 4), tokens_of(drawn)
    layout = DocumentLayout(data, how, CONTEXT, ("seed", 1) if shuffled else None)

    def cut(a: int, b: int) -> tuple[int, int]:
        """Words that are read of each: what fits, the longer one cut first."""
        a, b = min(a, longest - 2), min(b, longest - 2)
        while a + b + 4 > CONTEXT:
            a, b = (a - 1, b) if a > b else (a, b - 1) if b > a else (CONTEXT // 2 - 2, CONTEXT // 2 - 2)
        return a, b

    kept = [i for i, pair in enumerate(lengths) if truncation or cut(*pair) == pair]
    assert layout.kept.tolist() == kept and sum(layout.dropped.values()) == len(lengths) - len(kept)
    assert layout.cut == sum(cut(*lengths[i]) != lengths[i] for i in kept)
    blocks = int(layout.blocks_per_epoch)
    if not blocks:
        return
    batch = read(layout, how, np.arange(blocks, 2 * blocks))
    assert batch.labels is not None
    found = []
    for row in range(blocks):
        texts = texts_of(batch, row)
        assert len(texts) % 2 == 0 and len(texts) <= 4
        assert all(text[0] == 1 and text[-1] == 2 for text in texts)
        assert batch.labels.targets[row].tolist()[: len(texts)] == [0, 1] * (len(texts) // 2)
        assert batch.labels.weights[row].tolist() == [1.0] * len(texts) + [0.0] * (4 - len(texts))
        found += [(a[1:-1], b[1:-1]) for a, b in zip(texts[::2], texts[1::2], strict=True)]
    expected = [(drawn[i][0][:a], drawn[i][1][:b]) for i in kept for a, b in [cut(*lengths[i])]]
    assert sorted(found) == sorted(expected)
    assert layout.counts(blocks).tokens_supervised == 2 * len(kept)


class Stream:
    """What the check asks of a stream."""

    context = CONTEXT

    def __init__(self, how: PairAsking) -> None:
        self.asking = how


def test_the_check_sees_texts_on_the_wrong_side() -> None:
    how, data = PairAsking(((1,), (2,)), CONTEXT, False, 4), tokens_of([([10, 11], [20]), ([12], [21, 22])])
    stream: Any = Stream(how)
    layout = DocumentLayout(data, how, CONTEXT, None)
    seen = known(stream, data)
    batch = read(layout, how, np.arange(1))
    assert mistake(stream, batch, 0, seen) == (4, "")
    assert batch.labels is not None
    batch.labels.targets[0, 0] = 1
    assert "label of another" in mistake(stream, batch, 0, seen)[1]
    assert repeated(tokens_of([([1], [2]), ([1], [3]), ([3], [2]), ([1], [4])]), how) == {"source": 2, "target": 1}


WORDS = st.lists(st.lists(st.integers(10, 12), min_size=1, max_size=2), min_size=2, max_size=2)


@given(st.lists(WORDS, min_size=1, max_size=8), st.integers(1, 3))
@quick
def test_equal_texts_are_no_negatives_of_each_other(drawn: list[list[list[int]]], rows: int) -> None:
    how, objective = PairAsking(((), ()), CONTEXT, False, 2), Contrastive()
    layout = DocumentLayout(tokens_of([(a, b) for a, b in drawn]), how, CONTEXT, None)
    blocks = np.arange(min(rows, int(layout.blocks_per_epoch)))
    batch = read(layout, how, blocks)
    arrays = objective.arrays(batch, lambda n, *names: None, None)  # type: ignore[arg-type]
    texts = [texts_of(batch, row) for row in range(len(blocks))]
    assert objective.places(CONTEXT) == 2 and arrays["loss_weights"].tolist() == [[1.0]] * len(blocks)
    for i, (anchor, own) in enumerate(texts):
        for j, (another, other) in enumerate(texts):
            far = another != anchor and other not in (own, anchor)
            assert arrays["candidates"][i, j] == (OWN if i == j else OTHER if far else 0)


# -- loss and gradient -----------------------------------------------------------------------------------------------
def plan_of(mask: str, head: dict[str, Any], objective: dict[str, Any], **phase: Any) -> Plan:
    spec = {
        "name": "near",
        "device": "CPU",
        "model": {
            "context": 48,
            "d_model": 16,
            "layers": 1,
            "position": {"kind": "learned"},
            "attention": {"heads": 2},
            "mlp": {"kind": "gelu", "d_ff": 24},
            "mask": {"kind": mask},
        },
        "tokenizer": {"kind": "char", "vocab": 24, "special_tokens": ["cls", "sep"]},
        "data": {"sources": {"a": {"kind": "inline", "records": [{"x": "x"}], "source": "{x}", "target": "{x}"}}},
        "phases": {
            "p": {
                "kind": "contrastive",
                "mixture": {"a": "100%"},
                "budget": "4 steps",
                **({"heads": {"embedding": {"kind": "embedding", **head}}} if head else {}),
                "micro_batch_size": 2,
                "max_grad_norm": None,
                "objective": objective,
                "optimizer": {"kind": "sgd", "lr": 1.0},
                **phase,
            }
        },
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


PAIRS = [([12, 13, 14], [15, 16]), ([17] * 5, [18, 19]), ([20], [15, 16]), ([13, 12], [21, 14, 12, 19])]
"""The third has the first one's target; rows have room for three pairs each, and hold two."""
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("bidirectional", {}, {}),
    ("bidirectional", {"pooling": "cls", "pooler": True}, {"symmetric": True, "temperature": 0.3}),
    ("causal", {"normalised": False}, {"temperature": 0.07}),
    ("causal", {}, {"symmetric": True}),
]


def made(plan: Plan, pairs: list[tuple[list[int], list[int]]]) -> tuple[Batch, dict[str, np.ndarray]]:
    """A batch of one step whose rows hold two pairs each, and what the graph reads of it."""
    planned = plan.phases[0]
    how = asking_of(planned, [], plan.tokenizer.meanings())
    assert isinstance(how, PairAsking) and how.documents == 6
    two = PairAsking(how.around, how.longest, how.truncation, 4)
    layout = DocumentLayout(tokens_of(pairs, 24), two, 48, None)
    batch = blank(2, 48, 0)._replace(labels=how.blank(2))
    layout.gather(batch, np.arange(2), np.arange(2))
    return batch, BatchInputs(planned.model, planned.phase, plan.tokenizer.meanings(), (1,))(batch, 0)


def vectors(plan: Plan, w: dict[str, np.ndarray], batch: Batch) -> np.ndarray:
    """(texts, D) of unit length, text by text, so that none sees another."""
    model, found = plan.phases[0].model, []
    head = model.heads["embedding"]
    for row in range(2):
        for ids in texts_of(batch, row):
            x = reference.row_hidden(model, w, np.array(ids))
            one = {"mean": x.mean(0), "cls": x[0], "last": x[-1]}[head.pooling]  # type: ignore[attr-defined]
            if head.pooler:  # type: ignore[attr-defined]
                one = np.tanh(reference.linear(w, "embedding_head.pooler", one))
            found.append(one / np.sqrt((one**2).sum()))
    return np.array(found)


def loss_of(unit: np.ndarray, batch: Batch, objective: Any) -> tuple[float, int]:
    """(the mean of −log softmax over all that is no equal text, how many of those there are)."""
    texts = [t for row in range(2) for t in texts_of(batch, row)]
    asks, answers, total, left_out = texts[0::2], texts[1::2], 0.0, 0
    scores = unit[0::2] @ unit[1::2].T / objective.temperature
    n = len(asks)
    allowed = np.array(
        [
            [i == j or (asks[i] != asks[j] and answers[i] != answers[j] and asks[i] != answers[j]) for j in range(n)]
            for i in range(n)
        ]
    )
    left_out = int((~allowed).sum())
    for i in range(n):
        across = -(scores[i, i] - np.log(np.exp(scores[i][allowed[i]]).sum()))
        down = -(scores[i, i] - np.log(np.exp(scores[:, i][allowed[:, i]]).sum()))
        total += (across + down) / 2 if objective.symmetric else across
    return total / n, left_out


@pytest.mark.parametrize(
    ("mask", "head", "more", "plain"),
    [
        *((*case, False) for case in CASES[1:3]),
        *(pytest.param(*case, True, marks=pytest.mark.nightly) for case in CASES),
        pytest.param(*CASES[3], False, marks=pytest.mark.nightly),
    ],
)
def test_loss_and_gradients_are_those_of_the_formulas(
    mask: str, head: dict[str, Any], more: dict[str, Any], plain: bool
) -> None:
    plan = plan_of(mask, head, more)
    planned = plan.phases[0]
    batch, arrays = made(plan, PAIRS)
    weights = drawn_weights(planned.model, 2)
    trainer = Trainer(plan, planned, backend("CPU", plain), lambda t: weights[t.name])

    def exact(w: dict[str, np.ndarray]) -> float:
        return loss_of(vectors(plan, w, batch), batch, planned.phase.objective)[0]

    wide = reference.double(weights)
    loss, near = exact(wide), 400 * EPS / planned.phase.objective.temperature
    found = trainer.evaluate(arrays)
    assert found["loss"] / 4 == pytest.approx(loss, rel=near)
    assert found["masked"] == loss_of(vectors(plan, wide, batch), batch, planned.phase.objective)[1] == 2
    unit = vectors(plan, wide, batch)
    own = found["vectors"].reshape(2, 6, -1)[:, :4].reshape(8, -1)
    assert np.abs(own / np.linalg.norm(own, axis=1, keepdims=True) - unit).max() < 100 * EPS
    best = (
        unit[0::2] @ unit[1::2].T + np.where(arrays["candidates"][:, [0, 1, 3, 4]][[0, 1, 3, 4]] > 0, 0, -9)
    ).argmax(1)
    assert found["right"] == (best == np.arange(4)).sum()
    taken = trainer.step([arrays], planned.phase.optimizer.scalars(1.0, 1), 0)
    assert taken.sums["loss"] == pytest.approx(loss, rel=near) and taken.sums["masked"] == pytest.approx(0.5)
    gradients = {n: wide[n] - w.astype(np.float64) for n, w in trainer.weight_arrays().items()}
    assert all(np.isfinite(g).all() for g in gradients.values())
    for seed in range(3):
        way = {n: np.random.default_rng([seed, i]).standard_normal(w.shape) for i, (n, w) in enumerate(wide.items())}
        ahead, back = (exact({n: w + s * 1e-5 * way[n] for n, w in wide.items()}) for s in (1, -1))
        slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
        size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert slope == pytest.approx((ahead - back) / 2e-5, abs=2e-4 * size)


# -- scores ----------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=14), st.integers(0, 99))
@quick
def test_scores_are_those_of_their_definitions(pairs: list[tuple[int, int]], seed: int) -> None:
    draw = np.random.default_rng(seed).normal(0, 1, (2, 6, 3))
    vectors = np.array([one for a, b in pairs for one in (draw[0, a], draw[1, b])], np.float32)
    texts = [one for a, b in pairs for one in (f"a{a}".encode(), f"b{b}".encode())]
    value = {m.name: m.value for m in retrieval_scores(vectors, texts)}
    unit = draw.astype(np.float32).astype(np.float64)
    unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)
    targets, ranks, near, far = sorted({b for _, b in pairs}), [], [], []
    for a, b in pairs:
        own = {t for s, t in pairs if s == a}
        cosine = {t: float(unit[0, a] @ unit[1, t]) for t in targets}
        best = max(cosine[t] for t in own)
        ranks.append(1 + sum(cosine[t] >= best for t in targets if t not in own))
        near.append(cosine[b])
        far += [cosine[t] for t in targets if t not in own]
    assert value["recall@1"] == pytest.approx(np.mean([r == 1 for r in ranks]))
    assert value["recall@10"] == pytest.approx(np.mean([r <= 10 for r in ranks]))
    assert value["pair cosine"] == pytest.approx(np.mean(near))
    assert value["other cosine"] == pytest.approx(np.mean(far) if far else 0)
