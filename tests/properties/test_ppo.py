"""PPO: loss, what is counted and gradients are those of the formulas; two heads of one body; what is wrong is seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
import reference
from tinygrad import Tensor

from llmspec.backends.backend import backend
from llmspec.compiler import compile_spec
from llmspec.compiler.memory import memory_model, memory_of
from llmspec.compiler.phase_model import phase_model
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import blank
from llmspec.model.device import open_device
from llmspec.model.graph_memory import exact
from llmspec.model.weights import draw
from llmspec.parts.objectives.ppo import PPO
from llmspec.parts.objectives.value_function import value_errors
from llmspec.spec.schema import Spec
from llmspec.training.trainer import Trainer

EPS = 2.0**-23
MODEL = {"context": 12, "d_model": 16, "layers": 1, "attention": {"heads": 2}, "mlp": {"d_ff": 24}}
ROWS = 3


def compiled(part: PPO, model: dict[str, Any] = MODEL, **phase: Any) -> tuple[Plan, PhasePlan]:
    """A phase that trains this objective, with a head for values."""
    stage = {
        "kind": "pretrain",
        "mixture": {"a": "100%"},
        "budget": "4 steps",
        "micro_batch_size": ROWS,
        "max_grad_norm": None,
        "optimizer": {"kind": "sgd", "lr": 1.0},
        "document_mask": True,
        "heads": {"value": {"kind": "scalar", "bias": True}},
        **phase,
    }
    spec = {
        "name": "rewarded",
        "device": "CPU",
        "model": model,
        "tokenizer": {"kind": "char", "vocab": 24},
        "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
        "phases": {"p": stage},
    }
    plan = compile_spec(Spec.model_validate_json(json.dumps(spec)))
    changed = plan.phase("p").phase.model_copy(update={"objective": part})
    made, problems = phase_model(plan.model, changed)
    assert not problems
    memory = memory_of(made, changed, memory_model("CPU", "float32"))
    found = plan.phase("p").model_copy(update={"phase": changed, "model": made, "memory": memory})
    return plan.model_copy(update={"phases": (found,)}), found


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_a_value_within_its_bound_has_its_gradient_whatever_rounding_does(spread: float) -> None:
    open_device("CPU")
    dice, n, bound = np.random.default_rng(3), 20_000, 0.2
    old = (spread * dice.standard_normal(n)).astype(np.float32)
    values = (old + dice.uniform(-2 * bound, 2 * bound, n)).astype(np.float32)
    returns = (old + dice.standard_normal(n)).astype(np.float32)
    given = {"answers": np.ones(n, np.float32), "returns": returns, "old_values": old}
    made: dict[str, Any] = {name: Tensor(array, device="CPU") for name, array in given.items()}
    found, held = (one.numpy() for one in value_errors(Tensor(values, device="CPU"), made, bound))
    moved = values - old
    near = old + np.clip(moved, -bound, bound)
    worse = (np.abs(moved) > bound) & ((near - returns) ** 2 > (values - returns) ** 2)
    assert (held.astype(bool) == worse).all() and 0.1 < worse.mean() < 0.4
    assert found == pytest.approx(np.where(worse, near - returns, values - returns) ** 2, rel=1e-4, abs=1e-6)


class Case:
    """Two answers a row between prompts, with numbers as a rollout would leave them, and some far from the policy."""

    def __init__(self, part: PPO, temperature: float = 1.0, model: dict[str, Any] = MODEL, **phase: Any) -> None:
        self.part = part
        self.plan, self.phase = compiled(part, model, **phase)
        network = self.phase.model
        self.weights = {t.name: draw(t, 2) * (8 if t.role in ("matrix", "embedding") else 1) for t in network.tensors}
        dice = np.random.default_rng(5)
        self.weights["value_head.weight"] = dice.standard_normal((1, 16)).astype(np.float32)
        made = blank(ROWS, 12, 0)
        made.tokens[:], made.targets[:] = dice.integers(7, 24, (2, ROWS, 12))
        made.filled[:] = 12
        made.weights[:] = np.isin(np.arange(12), (2, 3, 4, 8, 9, 10))
        made.documents[:] = np.arange(12) >= 6
        made.positions[:] = np.arange(12) % 6
        here, nothing = made.weights > 0, dict.fromkeys(part.by_place, np.zeros((ROWS, 12), np.float32))
        scalars = {"inverse_temperature": 1 / temperature, "loss_scale": 1.0}
        self.temperature, self.batch = temperature, made
        exactly = self.outputs(reference.double(self.weights))
        apart = dice.standard_normal((3, ROWS, 12))
        self.drawn = {
            "old_logps": exactly[0] + 0.3 * apart[0],
            "advantages": apart[1],
            "returns": exactly[1] + apart[2],
            "old_values": exactly[1] + 0.3 * apart[1],
        }
        given = {n: np.where(here, a, 0).astype(np.float32) for n, a in self.drawn.items()}
        given |= {n: np.array([v], np.float32) for n, v in scalars.items()}
        whole = made._replace(drawn={**nothing, **given, "answers": here.astype(np.float32)})
        self.read = BatchInputs(network, self.phase.phase, self.plan.tokenizer.meanings(), (1,))(whole, 0)

    def outputs(self, w: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B, T) log-probabilities of the targets, values, and entropies."""
        logits = reference.logits(self.plan.model, w, self.batch.tokens, self.batch.documents)
        logits = logits / self.temperature
        high = logits.max(-1, keepdims=True)
        logs = logits - high - np.log(np.exp(logits - high).sum(-1, keepdims=True))
        logps = np.take_along_axis(logs, self.batch.targets[..., None].astype(int), -1)[..., 0]
        rows = zip(self.batch.tokens, self.batch.documents, strict=True)
        states = np.stack([reference.row_hidden(self.plan.model, w, *row) for row in rows])
        values = states @ w["value_head.weight"][0] + w["value_head.bias"]
        return logps, values, -(np.exp(logs) * logs).sum(-1)

    def formulas(self, w: dict[str, np.ndarray], values_of: dict[str, np.ndarray] | None = None) -> dict[str, float]:
        """The sums, token by token; values with the body of `values_of` where that is given."""
        logps, values, entropies = self.outputs(w)
        if values_of is not None:
            heads = {n: a for n, a in w.items() if n.startswith("value_head.")}
            values = self.outputs({**values_of, **heads})[1]
        clip, reach, found = self.part.clip_range, self.part.value.clip_range, list[dict[str, float]]()
        for place in zip(*np.nonzero(self.batch.weights), strict=True):
            one = {n: float(self.read[n][place]) for n in ("old_logps", "advantages", "returns", "old_values")}
            ratio, gain = np.exp(logps[place] - one["old_logps"]), one["advantages"]
            held = min(max(ratio, 1 - clip), 1 + clip)
            square = (values[place] - one["returns"]) ** 2
            moved = values[place] - one["old_values"]
            near = one["old_values"] + (moved if reach is None else min(max(moved, -reach), reach))
            found.append(
                {
                    "policy_loss": -min(ratio * gain, held * gain),
                    "value_loss": max(square, (near - one["returns"]) ** 2) / 2,
                    "approx_kl": (logps[place] - one["old_logps"]) ** 2 / 2,
                    "clip_low": float(ratio < 1 - clip and gain < 0),
                    "clip_high": float(ratio > 1 + clip and gain > 0),
                    "value_clip_fraction": float((near - one["returns"]) ** 2 > square),
                    "entropy": float(entropies[place]),
                }
            )
        means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        entropy = means.pop("entropy")
        loss = means["policy_loss"] + self.part.value.coefficient * means["value_loss"]
        return {"loss": loss - self.part.entropy_bonus * entropy, **means}


def compare(case: Case, plain: bool = False) -> None:
    """Sums of a pass and of a step, and the step's gradients along some directions."""
    low, wide = backend("CPU", plain), reference.double(case.weights)
    trainer = Trainer(case.plan, case.phase, low, lambda t: case.weights[t.name])
    wanted, counts = case.formulas(wide), float(case.batch.weights.sum())
    assert 0 < wanted["clip_low"] < 1 and 0 < wanted["clip_high"] < 1
    assert (0 < wanted["value_clip_fraction"] < 1) == (case.part.value.clip_range is not None)
    found = trainer.evaluate(case.read)
    logps, values, entropies = case.outputs(wide)
    here = case.batch.weights > 0
    np.testing.assert_allclose(found.pop("entropy")[here], entropies[here], rtol=1000 * EPS, atol=300 * EPS)
    assert (found.pop("reference_logps") == found["logps"]).all()
    np.testing.assert_allclose(found.pop("logps")[here], logps[here], rtol=300 * EPS, atol=300 * EPS)
    np.testing.assert_allclose(found.pop("values")[here], values[here], rtol=1000 * EPS, atol=300 * EPS)
    whole = {n: v / (1 if n == "loss" else counts) for n, v in found.items()}
    assert {**whole, "loss": whole["loss"] / counts} == pytest.approx(wanted, rel=3000 * EPS, abs=100 * EPS)
    taken = trainer.step([case.read], (1.0,), 0)
    means = {n: v / (1 if n == "loss" else counts) for n, v in taken.sums.items()}
    assert means == pytest.approx(wanted, rel=3000 * EPS, abs=100 * EPS) and taken.targets == counts
    gradients = {n: wide[n] - a.astype(np.float64) for n, a in trainer.weight_arrays().items()}
    size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    body = None if case.part.value.shared else wide
    for seed in range(3):
        way = {n: np.random.default_rng([seed, i]).standard_normal(a.shape) for i, (n, a) in enumerate(wide.items())}
        sides = [{n: a + s * 1e-5 * way[n] for n, a in wide.items()} for s in (1, -1)]
        ahead, back = (case.formulas(moved, body)["loss"] for moved in sides)
        slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
        assert slope == pytest.approx((ahead - back) / 2e-5, abs=5e-4 * size)


CASES: dict[str, tuple[dict[str, Any], float]] = {
    "usual": ({}, 1.0),
    "value apart": ({"value": {"shared": False, "coefficient": 2.0}}, 1.0),
    "entropy, warm": ({"entropy_bonus": 0.3, "clip_range": 0.1}, 0.7),
    "values unclipped, warm": ({"value": {"clip_range": None, "coefficient": 0.5}}, 1.7),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_the_formulas(name: str) -> None:
    settings, temperature = CASES[name]
    compare(Case(PPO.model_validate_json(json.dumps(settings)), temperature))


@pytest.mark.nightly
def test_the_plain_backend_says_the_same() -> None:
    compare(Case(PPO(entropy_bonus=0.1)), plain=True)


def test_a_bound_on_logits_comes_before_the_temperature() -> None:
    capped = {**MODEL, "heads": {"lm": {"kind": "lm", "softcap": 2.0, "bias": True, "tied": False}}}
    compare(Case(PPO(), 0.6, capped))


# -- planted mistakes --------------------------------------------------------------------------------------------------
class Planted(PPO):
    """The loss of something else."""

    kind: Literal["planted"] = "planted"  # type: ignore[assignment]
    fault: str = ""

    @property
    def beside(self) -> Mapping[str, bool]:
        return {"value": True} if self.fault == "reaches" else super().beside

    def build(self, dims: Any) -> Any:
        right = super().build(dims)

        def loss(ops: Any, outputs: Any, inputs: Any) -> Any:
            if self.fault == "sign":
                inputs = {**inputs, "advantages": -inputs["advantages"]}
            if self.fault in ("off by one", "values off by one"):
                moved = ["advantages"] if self.fault == "off by one" else ["returns", "old_values"]
                inputs = {**inputs, **{n: inputs[n].cat(inputs[n][:, :1], dim=1)[:, 1:] for n in moved}}
            if self.fault == "mask":
                inputs = {
                    **inputs,
                    "loss_weights": inputs["loss_weights"] * 0 + 1 / 36,
                    "answers": inputs["answers"] * 0 + 1,
                }
            if self.fault == "cold":
                inputs = {**inputs, "inverse_temperature": inputs["inverse_temperature"] * 0 + 1}
            found = right(ops, outputs, inputs)
            if self.fault == "value's sign":
                error = (found["value_loss"] / 18).reshape(())
                found["loss"] = found["loss"] - 2 * self.value.coefficient * error
            return found

        return loss


@pytest.mark.parametrize("fault", ["sign", "off by one", "values off by one", "mask", "cold", "value's sign"])
def test_planted_mistakes_are_seen(fault: str) -> None:
    with pytest.raises(AssertionError):
        compare(Case(Planted(fault=fault), 0.7))


def test_a_gradient_that_reaches_the_body_where_it_should_not_is_seen() -> None:
    case = Case(Planted.model_validate({"value": {"shared": False, "coefficient": 2.0}, "fault": "reaches"}))
    with pytest.raises(AssertionError):
        compare(case)


# -- estimates ---------------------------------------------------------------------------------------------------------
def test_values_start_as_0() -> None:
    """Values of random weights would be most of every advantage until they are learned."""
    _, phase = compiled(PPO())
    started = {t.name: t.init.distribution for t in phase.model.tensors if t.name.startswith("value_head.")}
    assert started == {"value_head.weight": "zeros", "value_head.bias": "zeros"}


@pytest.mark.parametrize("shared", [True, False])
def test_memory_and_what_is_trained_count_both_heads(shared: bool) -> None:
    model = {**MODEL, "context": 64, "d_model": 64, "layers": 2, "mlp": {"d_ff": 128}}
    plan, phase = compiled(PPO.model_validate({"value": {"shared": shared}}), model)
    assert {"value_head.weight", "value_head.bias"} <= {t.name for t in phase.model.trained}
    found = exact(plan)["p"]
    assert phase.memory is not None and phase.memory.weights == found["weights"]
    assert phase.memory.peak - phase.memory.decoding == pytest.approx(sum(found.values()), rel=0.1)
