"""Labels of texts: which documents stand in a row with which label, that loss and gradients are those of the formulas,
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
from llmspec.data.asking import asking_of
from llmspec.data.documents import DocumentLayout
from llmspec.data.inputs import BatchInputs
from llmspec.data.labels import LabelAsking
from llmspec.data.layout import Batch, blank
from llmspec.data.tokens import TokenSet
from llmspec.data.whole import known, mistake
from llmspec.spec.schema import Spec
from llmspec.training.scores import calibration_error, label_scores
from llmspec.training.trainer import Trainer

quick = settings(deadline=None, max_examples=40)
SETS = (("a",), ("b",), ("c",), ("a", "c"), ())


def tokens_of(lengths: list[int], sets: list[int]) -> TokenSet:
    """Documents of tokens that tell them apart, each with one of `SETS`."""
    ids = np.concatenate(
        [np.zeros(0, np.int32), *(np.arange(n) % 7 + 10 + 7 * (i % 50) for i, n in enumerate(lengths))]
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    characters = np.array(lengths, np.int64).reshape(-1, 1)
    return TokenSet(
        ids.astype(np.uint16), offsets, characters, labels=np.array(sets, np.int32), label_sets=SETS, vocab=400
    )


def asking(**given: Any) -> LabelAsking:
    settled = {
        "around": ((1,), (2,)),
        "longest": 16,
        "truncation": False,
        "documents": 3,
        "labels": ("c", "a"),
        "multi": False,
        "weights": np.array([0.5, 2.0], np.float32),
    }
    return LabelAsking(**{**settled, **given})


def read(layout: DocumentLayout, how: LabelAsking, blocks: np.ndarray) -> Batch:
    batch = blank(len(blocks), 16, 0)._replace(labels=how.blank(len(blocks)))
    layout.gather(batch, np.arange(len(blocks)), blocks)
    return batch


DOCUMENTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), min_size=1, max_size=40)


@given(DOCUMENTS, st.booleans(), st.booleans(), st.booleans())
@quick
def test_every_document_is_read_once_an_epoch_with_its_own_label(
    drawn: list[tuple[int, int]], multi: bool, truncation: bool, shuffled: bool
) -> None:
    lengths, sets = map(list, zip(*drawn, strict=True))
    how, data = asking(multi=multi, truncation=truncation), tokens_of(lengths, sets)
    layout = DocumentLayout(data, how, 16, ("seed", 1) if shuffled else None)
    fits = [n + 2 <= 16 or truncation for n in lengths]
    listed = [all(label in how.labels for label in SETS[s]) and (multi or len(SETS[s]) == 1) for s in sets]
    kept = [i for i in range(len(lengths)) if fits[i] and listed[i]]
    assert layout.kept.tolist() == kept
    assert sum(layout.dropped.values()) == len(lengths) - len(kept)
    assert layout.cut == sum(lengths[i] + 2 > 16 for i in kept)
    blocks = int(layout.blocks_per_epoch)
    if not blocks:
        assert not kept
        return
    batch = read(layout, how, np.arange(blocks, 2 * blocks))  # the second epoch
    assert batch.labels is not None and (batch.repeated == batch.filled).all()
    found = []
    for row in range(blocks):
        filled, weights = int(batch.filled[row]), batch.labels.weights[row]
        assert (batch.documents[row, filled:] > batch.documents[row, :filled].max()).all()
        for number in range(int(batch.documents[row, filled - 1]) + 1):
            here = np.flatnonzero(batch.documents[row, :filled] == number)
            ids = batch.tokens[row, here].tolist()
            assert ids[0] == 1 and ids[-1] == 2 and batch.positions[row, here].tolist() == list(range(len(ids)))
            assert batch.weights[row, here].tolist() == [0] * (len(ids) - 1) + [1]
            target = batch.labels.targets[row, number]
            found.append((tuple(ids[1:-1]), target.tolist()))
            assert weights[number] == (1 if multi else how.weights[int(target)])
        assert batch.labels.weights[row, number + 1 :].sum() == 0
    expected = []
    for i in kept:
        ids = data.tokens[data.offsets[i] : data.offsets[i + 1]][:14].tolist()
        names = [label in SETS[sets[i]] for label in how.labels]
        expected.append((tuple(ids), [float(n) for n in names] if multi else names.index(True)))
    assert sorted(found) == sorted(expected)
    assert layout.counts(blocks)[:2] == (int(batch.filled.sum()), len(kept))


class Stream:
    """What the check asks of a stream."""

    context = 16

    def __init__(self, how: LabelAsking) -> None:
        self.asking = how


def test_the_check_sees_each_mistake() -> None:
    how, data = asking(), tokens_of([3, 4, 5, 2], [0, 2, 0, 2])
    layout = DocumentLayout(data, how, 16, None)
    stream: Any = Stream(how)
    seen = known(stream, data)

    def said(change: Any = None) -> str:
        batch = read(layout, how, np.arange(int(layout.blocks_per_epoch)))
        if change is not None:
            change(batch)
        return next((w for row in range(len(batch.tokens)) if (w := mistake(stream, batch, row, seen)[1])), "")

    def label(batch: Any) -> None:
        batch.labels.targets[0, 0] = 1 - batch.labels.targets[0, 0]

    def token(batch: Any) -> None:
        batch.tokens[0, 1] += 1

    def place(batch: Any) -> None:
        batch.positions[0, 1] = 0

    def counted(batch: Any) -> None:
        batch.weights[0, 0] = 1

    def more(batch: Any) -> None:
        batch.labels.weights[-1, -1] = 1

    assert said() == ""
    told = {f.__name__: said(f) for f in (label, token, place, counted, more)}
    assert "label of another" in told["label"] and "none of the source's" in told["token"], told
    assert "positions" in told["place"] and "does not count once" in told["counted"] and "count" in told["more"], told


# -- loss and gradient -----------------------------------------------------------------------------------------------
def plan_of(mask: str, head: dict[str, Any], **phase: Any) -> Plan:
    spec = {
        "name": "told",
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
        "data": {"sources": {"a": {"kind": "inline", "records": [{"x": "x"}], "text": "{x}", "label": "{x}"}}},
        "phases": {
            "p": {
                "kind": "classify",
                "mixture": {"a": "100%"},
                "budget": "4 steps",
                "heads": {"classes": {"kind": "classes", "labels": ["a", "b", "c"], **head}},
                "micro_batch_size": 2,
                "max_grad_norm": None,
                "optimizer": {"kind": "sgd", "lr": 1.0},
                **phase,
            }
        },
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("bidirectional", {"pooling": "mean"}, {}),
    ("bidirectional", {"pooling": "cls", "pooler": True}, {"class_weights": {"b": 3.0}}),
    ("causal", {"pooling": "last"}, {"objective": {"label_smoothing": 0.2}}),
    ("causal", {"pooling": "mean", "bias": False, "multi_label": True}, {}),
    ("bidirectional", {"multi_label": True}, {"objective": {"label_smoothing": 0.3}}),
]


def pooled(head: Any, w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """(D,) of the states (T, D) of one document."""
    one = {"mean": x.mean(0), "cls": x[0], "last": x[-1]}[head.pooling]
    name = "classes_head.pooler"
    return np.tanh(reference.linear(w, name, one)) if head.pooler else one


def loss_of(logits: np.ndarray, target: np.ndarray, smooth: float) -> float:
    """Of one document: −Σ wanted log softmax, or the mean over classes of −log of the right yes or no."""
    if target.ndim:
        wanted, chance = target * (1 - smooth) + smooth / 2, 1 / (1 + np.exp(-logits))
        return float(-(wanted * np.log(chance) + (1 - wanted) * np.log(1 - chance)).mean())
    logs = logits - np.log(np.exp(logits).sum())
    wanted = np.eye(len(logits))[int(target)] * (1 - smooth) + smooth / len(logits)
    return float(-(wanted * logs).sum())


@pytest.mark.parametrize(("mask", "head", "more"), CASES)
@pytest.mark.parametrize("plain", [False, True])
def test_loss_and_gradients_are_those_of_the_formulas(
    mask: str, head: dict[str, Any], more: dict[str, Any], plain: bool
) -> None:
    plan = plan_of(mask, head, **more)
    planned = plan.phases[0]
    data = tokens_of([5, 9, 3, 20, 1, 7], [0, 1, 2, 3, 1, 2])._replace(vocab=24)
    data = data._replace(tokens=(data.tokens % 10 + 12).astype(np.uint16))
    about = {"train": {"labels": [[list(s), 2] for s in SETS]}}
    how = asking_of(planned, [about], plan.tokenizer.meanings())
    assert how is not None
    layout = DocumentLayout(data, how, 48, None)
    made = blank(2, 48, 0)._replace(labels=how.blank(2))
    layout.gather(made, np.arange(2), np.arange(2))
    assert made.labels is not None
    read = BatchInputs(planned.model, planned.phase, plan.tokenizer.meanings(), (1,))(made, 0)
    weights = drawn_weights(planned.model, 2)
    trainer = Trainer(plan, planned, backend("CPU", plain), lambda t: weights[t.name])
    part, smoothing = planned.model.heads["classes"], planned.phase.objective.label_smoothing

    def exact(w: dict[str, np.ndarray], smooth: float = smoothing) -> float:
        """The weighted mean of the losses: document by document, so that none sees another."""
        total = 0.0
        for row in range(2):
            filled = int(made.filled[row])
            for number in range(int(made.documents[row, filled - 1]) + 1):
                ids = made.tokens[row, :filled][made.documents[row, :filled] == number]
                hidden = reference.row_hidden(planned.model, w, ids)
                logits = reference.linear(w, "classes_head", pooled(part, w, hidden))
                target = made.labels.targets[row, number].astype(np.float64)
                total += loss_of(logits, target, smooth) * float(made.labels.weights[row, number])
        return total / float(made.labels.weights.sum())

    wide = reference.double(weights)
    loss = exact(wide)
    found = trainer.evaluate(read)
    held_out = exact(wide, 0.0)  # what is validated is not smoothed
    assert found["loss"] / made.labels.weights.sum() == pytest.approx(held_out, rel=200 * EPS)
    assert found["logits"].shape == (2 * 3, 3)
    taken = trainer.step([read], planned.phase.optimizer.scalars(1.0, 1), 0)
    assert taken.sums == {"loss": pytest.approx(loss, rel=200 * EPS)}
    gradients = {n: wide[n] - w.astype(np.float64) for n, w in trainer.weight_arrays().items()}
    assert all(not gradients[n].any() for n in gradients if n.startswith("lm_head"))
    for seed in range(3):
        way = {n: np.random.default_rng([seed, i]).standard_normal(w.shape) for i, (n, w) in enumerate(wide.items())}
        ahead, back = (exact({n: w + s * 1e-5 * way[n] for n, w in wide.items()}) for s in (1, -1))
        slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
        size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert slope == pytest.approx((ahead - back) / 2e-5, abs=2e-4 * size)


# -- scores ----------------------------------------------------------------------------------------------------------
@given(st.integers(1, 30), st.integers(2, 4), st.integers(0, 99), st.booleans())
@quick
def test_scores_are_those_of_their_definitions(n: int, classes: int, seed: int, multi: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes)).astype(np.float32)
    targets = rng.integers(0, 2, (n, classes)) if multi else rng.integers(0, classes, n)
    labels = tuple("abcd"[:classes])
    metrics, table = label_scores(logits, targets.astype(np.float32) if multi else targets, labels)
    value = {m.name: m.value for m in metrics}
    said = [set(np.flatnonzero(row > 0)) if multi else {int(row.argmax())} for row in logits]
    true = [set(np.flatnonzero(t)) if multi else {int(t)} for t in targets]
    assert value["accuracy"] == pytest.approx(np.mean([s == t for s, t in zip(said, true, strict=True)]))
    each, right, wrong, missed = [], 0, 0, 0
    for label in range(classes):
        hits = sum(label in s and label in t for s, t in zip(said, true, strict=True))
        extra = sum(label in s - t for s, t in zip(said, true, strict=True))
        lost = sum(label in t - s for s, t in zip(said, true, strict=True))
        each += [2 * hits / (2 * hits + extra + lost)] if hits + extra + lost else []
        right, wrong, missed = right + hits, wrong + extra, missed + lost
        assert table["scores"][label][0] == hits + lost
    assert value["F1 macro"] == pytest.approx(np.mean(each) if each else 0)
    assert value["F1 micro"] == pytest.approx(2 * right / max(1, 2 * right + wrong + missed))
    if not multi:
        assert value["F1 micro"] == pytest.approx(value["accuracy"])
        counts = np.zeros((classes, classes))
        for i, j, number in table["confusion"]:
            counts[i, j] = number
        assert counts.sum() == n and np.trace(counts) == right


def test_calibration() -> None:
    # Seven of ten answers of 0.7 are right, and one of two of 0.95.
    confidence = np.array([0.7] * 10 + [0.95] * 2)
    right = np.array([1] * 7 + [0] * 3 + [1, 0])
    assert calibration_error(confidence, right) == pytest.approx(2 / 12 * 0.45)
    assert calibration_error(np.zeros(0), np.zeros(0)) == 0
