"""Distillation: loss and gradients are those of torch's kl_div and cross_entropy on the same logits."""

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
from llmspec.parts.objectives.distillation import Distillation  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402

N, D, WIDE, V = 24, 12, 20, 33
CASES: dict[str, dict[str, Any]] = {
    "forward": {"temperature": 2.0, "teacher_share": 0.75},
    "reverse": {"divergence": "reverse", "temperature": 0.5, "teacher_share": 0.3},
    "smoothed": {"label_smoothing": 0.1, "teacher_share": 0.5},
    "teacher alone": {"teacher_share": 1.0, "temperature": 3.0},
}


def compare(part: Distillation, plain: bool = False) -> None:
    dice = np.random.default_rng(3)
    arrays = {
        name: dice.standard_normal(shape).astype(np.float32)
        for name, shape in {"x": (N, D), "w": (V, D), "x2": (N, WIDE), "w2": (V, WIDE)}.items()
    }
    targets = dice.integers(0, V, N).astype(np.int32)
    counts = (dice.integers(0, 3, N) / 2).astype(np.float32)
    shares = counts / counts.sum()
    open_device("CPU")
    low = backend("CPU", plain)

    def ours(t: dict[str, Tensor], rest: dict[str, Tensor]) -> tuple[Tensor, ...]:
        taught = Outputs(t["x2"].reshape(1, N, WIDE), Linear(t["w2"], None))
        outputs = Outputs(t["x"].reshape(1, N, D), Linear(t["w"], None), others={"teacher": taught})
        found = part.build(Dims(D, 1, N, V))(low.ops(rest), outputs, rest)
        gradients = found["loss"].gradient(t["x"], t["w"])
        Tensor.realize(found["loss"], *gradients)
        return (found["loss"], *gradients)

    given = tensors_from_numpy(**arrays)
    rest = tensors_from_numpy(targets=targets, loss_weights=shares)
    loss, to_x, to_w = (to_numpy(one) for one in ours(given, {**rest, **low.inputs}))

    theirs = {n: torch.from_numpy(a.copy()).requires_grad_(n in ("x", "w")) for n, a in arrays.items()}
    F, heat, weights = torch.nn.functional, part.temperature, torch.from_numpy(shares)
    own, taught = theirs["x"] @ theirs["w"].T, theirs["x2"] @ theirs["w2"].T
    logs = [F.log_softmax(logits / heat, dim=-1) for logits in (own, taught)]
    given_too, target = logs if part.divergence == "forward" else logs[::-1]
    kl = (F.kl_div(given_too, target, reduction="none", log_target=True).sum(-1) * weights).sum() * heat**2
    entropy = F.cross_entropy(
        own, torch.from_numpy(targets).long(), reduction="none", label_smoothing=part.label_smoothing
    )
    whole = part.teacher_share * kl + (1 - part.teacher_share) * (entropy * weights).sum()
    whole.backward()
    assert float(loss) == pytest.approx(whole.item(), rel=1e-5)
    for made, name in ((to_x, "x"), (to_w, "w")):
        wanted = theirs[name].grad.numpy()
        assert np.linalg.norm(made - wanted) <= 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients(case: str, plain: bool) -> None:
    compare(Distillation(teacher="t", **CASES[case]), plain)


class WrongSign(Distillation):
    """Farther from the teacher is better."""

    kind: Literal["wrong_sign"] = "wrong_sign"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        right, share = super().build(dims), self.teacher_share

        def loss(*given: Any) -> Any:
            found = right(*given)
            return {**found, "loss": found["loss"] - 2 * share * found["divergence"]}

        return loss


class NotSquared(Distillation):
    """Without the square of the temperature."""

    kind: Literal["not_squared_either"] = "not_squared_either"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        right, share = super().build(dims), self.teacher_share

        def loss(*given: Any) -> Any:
            found = right(*given)
            return {**found, "loss": found["loss"] - share * found["divergence"] * (1 - 1 / self.temperature**2)}

        return loss


@pytest.mark.parametrize("wrong", [WrongSign, NotSquared])
def test_what_is_wrong_is_seen(wrong: type[Distillation]) -> None:
    with pytest.raises(AssertionError):
        compare(wrong(teacher="t", temperature=2.0))
