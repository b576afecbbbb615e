"""Which answers are better: loss, counts and gradients are those of the formulas in float64, text by text."""

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
from llmspec.data.compared import ComparedAsking, ComparedLayout
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Batch, blank
from llmspec.data.preferences import Compared
from llmspec.data.tokens import encode_comparisons
from llmspec.parts.templates.base import Turn
from llmspec.spec.schema import Spec
from llmspec.training.preference_scores import better_pairs, preference_scores
from llmspec.training.trainer import Trainer

CONTEXT = 64
RECORDS = [
    Compared((Turn("user", ("ab",)),), (("c",), ("dd",)), (0, 1), 0.7),
    Compared((Turn("user", ("b",)),), (("a",), ("bb",), ("ccc",), ("d",)), (0, 1, 1, 2), 0.3),
    Compared((Turn("user", ("dca",)),), (("a",), ("b",)), (0, 1)),
]


def plan_of(objective: dict[str, Any], **phase: Any) -> Plan:
    spec = {
        "name": "r",
        "device": "CPU",
        "model": {
            "context": CONTEXT,
            "d_model": 16,
            "layers": 1,
            "attention": {"heads": 2},
            "mlp": {"kind": "gelu", "d_ff": 24},
        },
        "tokenizer": {"kind": "byte"},
        "data": {
            "sources": {
                "a": {"kind": "inline", "records": [{"x": "x"}], "prompt": "{x}", "chosen": "{x}", "rejected": "n"}
            }
        },
        "phases": {
            "p": {
                "kind": "reward",
                "mixture": {"a": "100%"},
                "budget": "4 steps",
                "micro_batch_size": 3,
                "max_grad_norm": None,
                "objective": objective,
                "optimizer": {"kind": "sgd", "lr": 1.0},
                **phase,
            }
        },
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


def made(plan: Plan) -> tuple[Batch, dict[str, np.ndarray]]:
    """A batch whose three rows hold all three records, the second a weight of 3, and what the graph reads of it."""
    planned, codec = plan.phases[0], plan.tokenizer.train(())
    how = asking_of(planned, [], plan.tokenizer.meanings())
    assert isinstance(how, ComparedAsking) and how.together == "lists" and how.documents == 4
    data = encode_comparisons(codec, plan.chat_template, RECORDS)
    data = data._replace(vocab=codec.vocab, weights=np.array([1, 3, 1], np.float32))
    # In the order of its documents, and with weights all the same.
    layout = ComparedLayout(data, how, CONTEXT, None)
    layout.weighs = data.weights
    batch = blank(3, CONTEXT, 0)._replace(labels=how.blank(3))
    layout.gather(batch, np.arange(3), np.arange(3))
    return batch, BatchInputs(planned.model, planned.phase, plan.tokenizer.meanings(), (1,))(batch, 0)


def rewards(plan: Plan, w: dict[str, np.ndarray], batch: Batch) -> dict[tuple[int, int], float]:
    """(record, nth answer) -> its reward, text by text, so that none sees another."""
    model, found = plan.phases[0].model, dict[tuple[int, int], float]()
    assert batch.labels is not None and batch.labels.records is not None
    for row in range(3):
        filled = int(batch.filled[row])
        for nth, record in enumerate(batch.labels.records[row].tolist()):
            if record >= 0:
                ids = batch.tokens[row, :filled][batch.documents[row, :filled] == nth]
                last = reference.row_hidden(model, w, ids)[-1]
                number = float(reference.linear(w, "reward_head", last)[0])
                found[record, sum(r == record for r, _ in found)] = number
    return found


def loss_of(found: dict[tuple[int, int], float], centre: float) -> tuple[float, float, float, float]:
    """(loss, right choices, differences, weight), summed over the choices of each list, of plain definitions."""
    sums = np.zeros(4)
    for record, (compared, weight) in enumerate(zip(RECORDS, (1.0, 3.0, 1.0), strict=True)):
        for i, rank in enumerate(compared.ranks):
            below = [found[record, j] for j, other in enumerate(compared.ranks) if other > rank]
            if not below:
                continue
            own, margin = found[record, i], compared.margin if rank == 0 else 0.0
            nats = np.log(1 + sum(np.exp(r + margin - own) for r in below))
            nats += centre * (2 * np.mean([own, *below])) ** 2
            sums += weight * np.array([nats, own > max(below), own - np.mean(below), 1])
    return tuple(sums.tolist())  # type: ignore[return-value]


@pytest.mark.parametrize(("centre", "plain"), [(0.05, False), pytest.param(0.0, True, marks=pytest.mark.nightly)])
def test_loss_and_gradients_are_those_of_the_formulas(centre: float, plain: bool) -> None:
    plan = plan_of({"center_rewards_coefficient": centre})
    planned = plan.phases[0]
    batch, arrays = made(plan)
    weights = drawn_weights(planned.model, 2)
    weights["reward_head.weight"] = weights["reward_head.weight"] * 9  # so that rewards differ
    trainer = Trainer(plan, planned, backend("CPU", plain), lambda t: weights[t.name])
    wide = reference.double(weights)
    loss, right, apart, count = loss_of(rewards(plan, wide, batch), centre)
    assert count == float(arrays["loss_weights"].sum()) == 2 + 3 * 3
    found = trainer.evaluate(arrays)
    assert found["loss"] == pytest.approx(loss, rel=400 * EPS)
    assert found["accuracy"] == right and found["margin"] == pytest.approx(apart, rel=1e-4, abs=1e-5)
    taken = trainer.step([arrays], planned.phase.optimizer.scalars(1.0, 1), 0)
    assert taken.sums["loss"] == pytest.approx(loss / count, rel=400 * EPS)
    gradients = {n: wide[n] - w.astype(np.float64) for n, w in trainer.weight_arrays().items()}
    size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    assert size > 1e-3

    def exact(w: dict[str, np.ndarray]) -> float:
        return loss_of(rewards(plan, w, batch), centre)[0] / count

    for seed in range(2):
        way = {n: np.random.default_rng([seed, i]).standard_normal(w.shape) for i, (n, w) in enumerate(wide.items())}
        ahead, back = (exact({n: w + s * 1e-5 * way[n] for n, w in wide.items()}) for s in (1, -1))
        slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
        assert slope == pytest.approx((ahead - back) / 2e-5, abs=2e-4 * size)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(1, 5), st.integers(-9, 9)), max_size=14))
@settings(deadline=None, max_examples=60)
def test_scores_are_those_of_their_definitions(answers: list[tuple[int, int, int, int]]) -> None:
    records, ranks, lengths, given_ = (list(column) for column in zip(*answers, strict=True)) if answers else [[]] * 4
    pairs = [
        (i, j)
        for i in range(len(answers))
        for j in range(len(answers))
        if records[i] == records[j] and ranks[i] < ranks[j]
    ]
    assert sorted(better_pairs(records, ranks)) == sorted(pairs)
    value = {m.name: m.value for m in preference_scores(np.array(given_, np.float32), records, ranks, lengths)}
    longer = [lengths[i] > lengths[j] for i, j in pairs if lengths[i] != lengths[j]]
    assert value.get("longer is better") == (pytest.approx(np.mean(longer)) if longer else None)
    bins = dict[int, list[tuple[float, bool]]]()
    for i, j in pairs:
        sure = 1 / (1 + np.exp(-abs(given_[i] - given_[j])))
        bins.setdefault(min(int(sure * 15), 14), []).append((sure, given_[i] > given_[j]))
    error = sum(abs(sum(s - right for s, right in held)) for held in bins.values()) / max(1, len(pairs))
    assert value["ECE"] == pytest.approx(error)
    if len(set(given_)) > 1 and len(set(lengths)) > 1:
        centred = [np.array(x, float) - np.mean(x) for x in (given_, lengths)]
        cosine = (centred[0] @ centred[1]) / np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
        assert value["length correlation"] == pytest.approx(cosine)
    else:
        assert "length correlation" not in value
