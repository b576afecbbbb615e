"""Contrastive loss and gradients are those of MultipleNegativesRankingLoss (sentence-transformers): torch's
cross_entropy over the cosines of all pairs times a scale, each anchor's own counterpart being its class."""

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
from llmspec.parts.objectives.contrastive import OTHER, OWN, Contrastive  # noqa: E402

P, D = 14, 24
CASES: dict[str, dict[str, Any]] = {
    "scale 20": {},
    "warm": {"temperature": 0.5},
    "both ways": {"temperature": 0.1, "symmetric": True},
}


def compare(part: Contrastive, plain: bool = False) -> None:
    """Pairs 12 and 13 are places of a row without a pair; the targets of 3 and 5 are equal."""
    dice = np.random.default_rng(5)
    x = dice.standard_normal((2 * P, D)).astype(np.float32)
    weights, candidates = np.ones(P, np.float32), np.full((P, P), OTHER, np.int32)
    weights[12:], x[24:] = 0, 0
    candidates[12:], candidates[:, 12:], candidates[3, 5], candidates[5, 3] = 0, 0, 0, 0
    np.fill_diagonal(candidates, OWN)
    shares = weights / weights.sum()
    open_device("CPU")
    low = backend("CPU", plain)

    def ours(x: Tensor, rest: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        loss = part.build(Dims(D, 1, 2 * P, 33))(low.ops(rest), Outputs(x, None), rest)["loss"]
        (gradient,) = loss.gradient(x)
        Tensor.realize(loss, gradient)
        return loss, gradient

    given = tensors_from_numpy(x=x)["x"]
    rest = {**tensors_from_numpy(candidates=candidates, loss_weights=shares), **low.inputs}
    loss, gradient = (to_numpy(one) for one in ours(given, rest))

    F, theirs = torch.nn.functional, torch.from_numpy(x.copy()).requires_grad_(True)
    unit = F.normalize(theirs[:24], dim=-1)
    scores = unit[0::2] @ unit[1::2].T * (1 / part.temperature)
    masked = torch.zeros(12, 12, dtype=torch.bool)
    masked[3, 5] = masked[5, 3] = True
    scores = scores.masked_fill(masked, float("-inf"))
    whole = F.cross_entropy(scores, torch.arange(12))
    if part.symmetric:
        whole = (whole + F.cross_entropy(scores.T, torch.arange(12))) / 2
    whole.backward()
    assert float(loss) == pytest.approx(whole.item(), rel=1e-5)
    wanted = theirs.grad.numpy()
    assert np.linalg.norm(gradient - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: str, plain: bool) -> None:
    compare(Contrastive(**CASES[case]), plain)


class Changed(Contrastive):
    """The loss of something else: of what its inputs, or the vectors, are changed to."""

    kind: Literal["changed_pairs"] = "changed_pairs"  # type: ignore[assignment]
    fault: str = ""

    def build(self, dims: Any) -> Any:
        right = (Contrastive(temperature=1 / self.temperature) if self.fault == "temperature" else super()).build(dims)

        def loss(ops: Any, outputs: Any, inputs: Any) -> Any:
            if self.fault == "sign":
                turned = outputs.features.reshape(-1, 2, D)
                outputs = Outputs(turned[:, :1].cat(-turned[:, 1:], dim=1).reshape(-1, D), None)
            if self.fault == "mask":
                pairs = (inputs["loss_weights"] > 0).cast("int32")
                inputs = {**inputs, "candidates": inputs["candidates"].maximum(pairs.reshape(-1, 1) * pairs)}
            if self.fault == "length":
                long = Tensor(np.linspace(0.5, 2, 2 * P, dtype=np.float32)).reshape(-1, 1)
                return self.unnormalised(ops, outputs.features * long, inputs)
            return right(ops, outputs, inputs)

        return loss

    def unnormalised(self, ops: Any, vectors: Any, inputs: Any) -> Any:
        scores = ops.matmul(vectors[0::2].contiguous(), vectors[1::2].contiguous(), transpose_b=True) / self.temperature
        scores = (inputs["candidates"] > 0).where(scores, -1e9)
        own = (inputs["candidates"] == OWN).where(scores, 0).sum(-1)
        return {"loss": ((scores.logsumexp(-1) - own) * inputs["loss_weights"]).sum()}


@pytest.mark.parametrize("fault", ["sign", "mask", "temperature", "length"])
def test_a_planted_fault_is_seen(fault: str) -> None:
    with pytest.raises(AssertionError):
        compare(Changed(fault=fault, temperature=0.25))
