"""The loss of a reward model beside TRL's RewardTrainer: the same hidden states and last layer give the same
loss, accuracy, margin and gradients, with margins and centring and without. Lists of several answers are not TRL's."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
trl = pytest.importorskip("trl")

from tinygrad import Tensor  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.data.layout import Labels, blank  # noqa: E402
from llmspec.model.device import open_device  # noqa: E402
from llmspec.parts.base import Dims  # noqa: E402
from llmspec.parts.objectives.base import Outputs  # noqa: E402
from llmspec.parts.objectives.preference_ranking import PreferenceRanking  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402

B, K, D, CONTEXT = 2, 4, 8, 64
"""The second row has room for a pair that is not there."""
THERE = np.array([[0, 0, 1, 1], [2, 2, -1, -1]])


def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(last hidden states of the texts, last layer, margins)."""
    dice = np.random.default_rng(3)
    margins = np.where(THERE >= 0, np.array([0.3, 1.2, 0.0])[THERE], 0).astype(np.float32)
    return dice.standard_normal((B * K, D)).astype(np.float32), dice.standard_normal((1, D)).astype(np.float32), margins


def ours(part: PreferenceRanking, margin: bool, plain: bool) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """(means over the pairs, gradients of the loss by the states of the texts and by the layer)."""
    states, layer, margins = drawn()
    sides = np.tile(np.arange(2, dtype=np.int32), (B, K // 2))
    weights = (THERE >= 0).astype(np.float32)
    labels = Labels(sides, weights, THERE.astype(np.int64), margins if margin else np.zeros_like(margins))
    arrays = part.arrays(blank(B, CONTEXT, 0)._replace(labels=labels), lambda n, *names: None, None)  # type: ignore[arg-type]
    arrays["loss_weights"] = arrays["loss_weights"] / arrays["loss_weights"].sum()
    open_device("CPU")
    low = backend("CPU", plain)
    held = tensors_from_numpy(states=states, layer=layer)
    rest = {**tensors_from_numpy(**arrays), **low.inputs}
    found = part.build(Dims(D, 1, CONTEXT, 9))(low.ops(rest), Outputs(held["states"], Linear(held["layer"])), rest)
    gradients = found["loss"].gradient(held["states"], held["layer"])
    Tensor.realize(*found.values(), *gradients)
    sums = {name: float(to_numpy(value)) for name, value in found.items()}
    named = {m.name: m.value for m in part.metrics({**sums, "loss_weights": 1.0}, 0)}
    return named, to_numpy(gradients[0]), to_numpy(gradients[1])


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("centre", [None, 0.3])
@pytest.mark.parametrize("margin", [False, True])
def test_loss_metrics_and_gradients(margin: bool, centre: float | None, plain: bool) -> None:
    from trl.trainer.reward_trainer import RewardTrainer

    states, layer, margins = drawn()
    hidden, weight = (torch.from_numpy(array.copy()).requires_grad_(True) for array in (states, layer))
    there = np.flatnonzero(THERE.reshape(-1) >= 0)
    order = torch.from_numpy(np.concatenate([there[::2], there[1::2]]))

    class Model:
        training = True

        def __call__(self, **inputs: Any) -> Any:
            return SimpleNamespace(logits=hidden[order] @ weight.T)

    trainer = object.__new__(RewardTrainer)
    trainer.model, trainer._metrics = Model(), {"train": defaultdict(list)}
    trainer.args = SimpleNamespace(center_rewards_coefficient=centre)
    trainer.accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    inputs = {"attention_mask": torch.ones(1, 1)}
    if margin:
        inputs["margin"] = torch.from_numpy(margins.reshape(-1)[there[::2]])
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    found, by_state, by_layer = ours(PreferenceRanking(center_rewards_coefficient=centre or 0.0), margin, plain)
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name in ("accuracy", "margin"):
        assert found[name] == pytest.approx(trainer._metrics["train"][name][-1], rel=1e-5), name
    for mine, theirs in ((by_state, hidden.grad.numpy()), (by_layer, weight.grad.numpy())):
        assert np.linalg.norm(mine - theirs) <= 1e-5 * np.linalg.norm(theirs) and np.linalg.norm(theirs) > 0
