"""Losses of the log-probabilities of answers, and their gradients, are those of their formulas (float64); what is wrong
in sign, mask, normalisation or place is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import answer_cases as cases
import hypothesis
import numpy as np
import pytest
import reference_answers as exact
from hypothesis import strategies as st
from networks import EPS
from tinygrad import Tensor

from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy, to_numpy
from llmspec.data.documents import answers
from llmspec.data.rotated import Text, packed, rotated, texts_of
from llmspec.model.device import open_device
from llmspec.parts.base import Dims
from llmspec.parts.objectives.answers import AnswerObjective
from llmspec.parts.objectives.base import Outputs
from llmspec.parts.objectives.dpo import DPO
from llmspec.parts.objectives.kto import KTO
from llmspec.parts.objectives.orpo import ORPO, log_rest
from llmspec.parts.ops import Linear

D, V, K = 16, cases.VOCAB, 4
GOOD = [[1, 0, 0, 1], [1, 1, 0, 0]]
PARTS: dict[str, AnswerObjective] = {
    "sigmoid": DPO(),
    "conservative": DPO(label_smoothing=0.1, beta=0.3),
    "hinge": DPO(loss="hinge", beta=0.05),
    "ipo": DPO(loss="ipo", beta=0.7),
    "ipo of sums": DPO(loss="ipo", length_normalised=False),
    "robust": DPO(loss="robust", label_smoothing=0.2),
    "normalised": DPO(length_normalised=True, beta=2.0),
    "simpo": DPO(reference_free=True, length_normalised=True, beta=2.0, target_margin=0.8),
    "rpo": DPO(rpo_alpha=0.7),
    "orpo": ORPO(beta=0.5),
    "kto": KTO(beta=0.2, desirable_weight=1.3, undesirable_weight=0.7),
    "kto below": KTO(beta=0.2),
}
KL = {"kto": 1.7, "kto below": -0.4}


def given(part: AnswerObjective, kl: float = 0.0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(inputs of the graph but for what the network reads, weights): rows of four texts and of two."""
    batch = cases.batch_of(cases.TEXTS, K, None if part.in_pairs else GOOD)
    arrays = part.arrays(batch, lambda n, *names: None, None)  # type: ignore[arg-type]
    weights = arrays["loss_weights"]
    weights *= np.array([[1.0, 0.5], [2.0, 1.0]] if part.in_pairs else [[1, 0.5, 2, 1], [1, 1, 1, 1]], np.float32)
    if part.compares:
        arrays["reference_logps"] = cases.REFERENCE
    if not part.in_pairs:
        arrays["kl"] = np.array([kl], np.float32)
    return {**arrays, "members": answers(batch, K)}, weights


def computed(
    part: Any, x: np.ndarray, layer: np.ndarray, arrays: dict[str, np.ndarray], plain: bool
) -> tuple[dict[str, float], np.ndarray]:
    """(sums, gradient of the loss by the features)."""
    open_device("CPU")
    low = backend("CPU", plain)
    held = tensors_from_numpy(x=x, layer=layer)
    rest = {**tensors_from_numpy(**arrays), **low.inputs}
    outputs = Outputs(held["x"], Linear(held["layer"]))
    found = part.build(Dims(D, 1, cases.CONTEXT, V))(low.ops(rest), outputs, rest)
    (gradient,) = found["loss"].gradient(held["x"])
    Tensor.realize(*found.values(), gradient)
    return {name: float(to_numpy(t)) for name, t in found.items()}, to_numpy(gradient)


def wanted(part: Any, x: np.ndarray, layer: np.ndarray, weights: np.ndarray, kl: float) -> dict[str, float]:
    """The same in float64: every answer token by token, from where it stands."""
    spans, at = [], 0
    for row, texts in enumerate(cases.TEXTS):
        at = 0
        for prompt, answer in texts:
            spans.append((row, at + len(prompt) - 1, len(answer)))
            at += len(prompt) + len(answer) - 1
    batch = cases.batch_of(cases.TEXTS, K)
    own, sizes = exact.logps(x @ layer.T, batch.targets, spans)
    there = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    reference = cases.REFERENCE.astype(np.float64)[there]
    if not part.in_pairs:
        good = np.array(GOOD, np.float64)[there]
        return exact.kto(part, own, reference, good, kl, weights.astype(np.float64)[there])
    w = weights.astype(np.float64)[there[:, ::2]]
    return (exact.orpo if isinstance(part, ORPO) else exact.dpo)(part, own, sizes, reference, w)


def compare(part: Any, plain: bool = False, kl: float = 0.0) -> None:
    dice = np.random.default_rng(3)
    x = dice.standard_normal((2, cases.CONTEXT, D)).astype(np.float32)
    layer = (dice.standard_normal((V, D)) / 4).astype(np.float32)
    arrays, weights = given(part, kl)
    found, gradient = computed(part, x, layer, arrays, plain)
    wide = x.astype(np.float64), layer.astype(np.float64)
    want = wanted(part, *wide, weights, kl)
    assert found.keys() == want.keys() == {"loss", *part.counted}
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=100 * EPS, abs=100 * EPS), name
    for seed in range(3):
        way = np.random.default_rng(seed).standard_normal(x.shape)
        step = 1e-5
        up, down = (wanted(part, wide[0] + s * way, wide[1], weights, kl)["loss"] for s in (step, -step))
        slope = (up - down) / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(
            slope, rel=200 * EPS, abs=1e-6 * float(np.abs(gradient).sum())
        )


MORE = ("conservative", "ipo of sums", "normalised", "kto below")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.nightly] * (c in MORE)) for c in PARTS])
def test_loss_and_gradient_are_those_of_the_formulas(case: str) -> None:
    compare(PARTS[case], kl=KL.get(case, 0.0))


@pytest.mark.parametrize("case", ["sigmoid", "orpo", "kto"])
def test_the_plain_backend_computes_the_same(case: str) -> None:
    compare(PARTS[case], plain=True, kl=KL.get(case, 0.0))


def test_the_first_step_has_a_gradient() -> None:
    """A policy that is its own reference: the loss is log 2, and its slope a half of beta."""
    part, (arrays, _) = DPO(beta=0.2), given(DPO())
    x, layer = np.zeros((2, cases.CONTEXT, D), np.float32), np.ones((V, D), np.float32)
    sizes = arrays["members"].sum(-1)
    arrays["reference_logps"] = (-sizes * np.float32(np.log(V))).astype(np.float32)
    found, _ = computed(part, x, layer, arrays, False)
    assert found["loss"] == pytest.approx(3.5 * np.log(2), rel=1e-5)
    from llmspec.parts.objectives.answers import log_sigmoid

    z = Tensor([0.0, -80.0, 80.0, 1e-3])
    (slope,) = log_sigmoid(z).sum().gradient(z)
    assert slope.numpy() == pytest.approx([0.5, 1.0, 0.0, 0.49975], abs=1e-6)
    assert log_sigmoid(z).numpy() == pytest.approx([-np.log(2), -80.0, 0.0, -0.69264727], abs=1e-6)


def test_odds_of_sure_answers_are_finite() -> None:
    x = np.array([-1e-7, -1e-4, -0.02, -0.69, -0.7, -3.0, -40.0], np.float32)
    z = Tensor(x)
    (slope,) = log_rest(z).sum().gradient(z)
    wide = x.astype(np.float64)
    assert log_rest(z).numpy() == pytest.approx(np.log(-np.expm1(wide)), rel=1e-5, abs=1e-7)
    assert slope.numpy() == pytest.approx(np.exp(wide) / np.expm1(wide), rel=1e-5)


def test_answers_behind_other_prompts() -> None:
    """Each prompt has the answer of the text before it, as TRL pairs them; what does not fit loses its beginning."""
    batch = cases.batch_of(cases.TEXTS, K)
    texts = texts_of(batch)
    assert [(t.prompt, t.answer) for t in texts] == [pair for row in cases.TEXTS for pair in row]
    mixed = rotated(texts)
    assert mixed[0] == (texts[0].prompt, texts[-1].answer) and mixed[2] == (texts[2].prompt, texts[1].answer)
    found = packed(mixed, batch)
    assert [(t.prompt, t.answer) for b in found for t in texts_of(b)] == mixed
    assert len(found) == 1 and found[0].labels is not None and found[0].labels.weights.sum() == len(mixed)
    for b in found:
        for row in range(len(b.tokens)):
            there = np.arange(cases.CONTEXT) < b.filled[row]
            numbers = b.documents[row]
            assert not set(numbers[there]) & set(numbers[~there])
            for n in set(numbers.tolist()):
                assert b.positions[row][numbers == n].tolist() == list(range(int((numbers == n).sum())))
    long = packed([([1] * 90, [5] * 20)] * 3, batch)
    assert len(long) == 2 and all(len(t.prompt) + len(t.answer) == cases.CONTEXT for b in long for t in texts_of(b))


@hypothesis.given(st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_no_prompt_has_an_answer_of_its_own(prompts: list[int]) -> None:
    """Good and bad answers to one prompt stand side by side: each takes that of the nearest other prompt before it."""
    texts = [Text(0, i, [prompt], [100 + i]) for i, prompt in enumerate(prompts)]
    for i, (prompt, answer) in enumerate(rotated(texts)):
        back = [texts[i - k] for k in range(1, len(texts) + 1)]
        others = [text for text in back if text.prompt != [prompts[i]]] or back
        assert prompt == [prompts[i]] and answer == others[0].answer


# -- planted faults --------------------------------------------------------------------------------------------------
Changed = Callable[[dict[str, Any]], dict[str, Any]]


def moved(inputs: dict[str, Any]) -> dict[str, Any]:
    """Answers begin a place later, and end a place later."""
    members = inputs["members"]
    return {**inputs, "members": members.shrink((None, None, (0, cases.CONTEXT - 1))).pad((None, None, (1, 0)))}


def unmasked(inputs: dict[str, Any]) -> dict[str, Any]:
    """Prompts count, too."""
    before = inputs["members"].shrink((None, None, (1, cases.CONTEXT))).pad((None, None, (0, 1)))
    return {**inputs, "members": inputs["members"].maximum(before)}


def swapped(inputs: dict[str, Any]) -> dict[str, Any]:
    """Chosen and rejected answers change places; good ones are bad."""
    if "desirable" in inputs:
        return {**inputs, "desirable": 1 - inputs["desirable"]}
    m = inputs["members"]
    return {**inputs, "members": m.reshape(2, 2, 2, -1).flip(2).reshape(2, 4, -1)}


def averaged(inputs: dict[str, Any]) -> dict[str, Any]:
    """Sums are means over tokens, and means are sums."""
    return {**inputs, "members": inputs["members"] / inputs["members"].sum(-1, keepdim=True).maximum(1)}


@pytest.mark.parametrize("fault", [moved, unmasked, swapped, averaged])
@pytest.mark.parametrize(
    "case", ["sigmoid", "kto", *(pytest.param(case, marks=pytest.mark.nightly) for case in ("ipo", "orpo"))]
)
def test_a_planted_fault_is_seen(case: str, fault: Changed) -> None:
    part = PARTS[case]

    class Faulty(type(part)):  # type: ignore[misc]
        def build(self, dims: Any) -> Any:
            right = super().build(dims)
            return lambda ops, outputs, inputs: right(ops, outputs, fault(inputs))

    with pytest.raises(AssertionError):
        compare(Faulty(**part.model_dump(exclude={"kind"})), kl=KL.get(case, 0.0))
