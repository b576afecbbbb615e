"""Loss and gradients of numbers are those of torch's mse_loss and huber_loss; a planted fault is seen."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

from tinygrad import Tensor  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.model.device import open_device  # noqa: E402
from llmspec.parts.base import Dims  # noqa: E402
from llmspec.parts.objectives.base import Outputs  # noqa: E402
from llmspec.parts.objectives.regression import Regression  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402

N, D = 20, 12


def compare(part: Regression, plain: bool = False) -> None:
    dice = np.random.default_rng(3)
    x, w, b = (dice.standard_normal(shape).astype(np.float32) for shape in ((N, D), (1, D), (1,)))
    targets, counts = dice.standard_normal(N).astype(np.float32), (dice.integers(0, 3, N) / 2).astype(np.float32)
    shares = counts / counts.sum()
    open_device("CPU")
    low = backend("CPU", plain)

    def ours(t: dict[str, Tensor], rest: dict[str, Tensor]) -> tuple[Tensor, ...]:
        loss = part.build(Dims(D, 1, N, 33))(low.ops(rest), Outputs(t["x"], Linear(t["w"], t["b"])), rest)["loss"]
        gradients = loss.gradient(t["x"], t["w"], t["b"])
        Tensor.realize(loss, *gradients)
        return (loss, *gradients)

    given = tensors_from_numpy(x=x, w=w, b=b)
    rest = {**tensors_from_numpy(targets=targets, loss_weights=shares), **low.inputs}
    loss, *gradients = (to_numpy(one) for one in ours(given, rest))
    theirs = [torch.from_numpy(a.copy()).requires_grad_(True) for a in (x, w, b)]
    said, F, true = (theirs[0] @ theirs[1].T + theirs[2]).reshape(-1), torch.nn.functional, torch.from_numpy(targets)
    if part.huber is None:
        each = F.mse_loss(said, true, reduction="none")
    else:
        each = F.huber_loss(said, true, reduction="none", delta=part.huber)
    whole = (each * torch.from_numpy(shares)).sum()
    whole.backward()
    assert float(loss) == pytest.approx(whole.item(), rel=1e-5)
    for made, wanted in zip(gradients, theirs, strict=True):
        assert np.linalg.norm(made - wanted.grad.numpy()) <= 1e-5 * np.linalg.norm(wanted.grad.numpy())


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("huber", [None, 0.5])
def test_loss_and_gradients(huber: float | None, plain: bool) -> None:
    compare(Regression(huber=huber), plain)


class Changed(Regression):
    """The loss of something else."""

    kind: Literal["changed_numbers"] = "changed_numbers"  # type: ignore[assignment]
    fault: str = ""

    def build(self, dims: Any) -> Any:
        right = super().build(dims)

        def loss(ops: Any, outputs: Any, inputs: Any) -> Any:
            if self.fault == "sign":
                inputs = {**inputs, "targets": -inputs["targets"]}
            if self.fault == "weights":
                inputs = {**inputs, "loss_weights": inputs["loss_weights"] * 0 + 1 / N}
            if self.fault == "scale":
                inputs = {**inputs, "targets": inputs["targets"] * 2}
            return right(ops, outputs, inputs)

        return loss


@pytest.mark.parametrize("fault", ["sign", "weights", "scale"])
def test_a_planted_fault_is_seen(fault: str) -> None:
    with pytest.raises(AssertionError):
        compare(Changed(fault=fault))
