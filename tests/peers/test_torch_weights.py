"""Records that count more or less: loss and gradients are those of torch's weighted mean of cross entropies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")

from tinygrad import Tensor  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.data.layout import blank  # noqa: E402
from llmspec.data.packing import DialogueLayout  # noqa: E402
from llmspec.data.reduction import by_sample  # noqa: E402
from llmspec.data.tokens import encode_dialogues  # noqa: E402
from llmspec.model.device import open_device  # noqa: E402
from llmspec.parts.base import Dims  # noqa: E402
from llmspec.parts.objectives.base import Outputs  # noqa: E402
from llmspec.parts.objectives.cross_entropy import CrossEntropy  # noqa: E402
from llmspec.parts.ops import Linear  # noqa: E402
from llmspec.parts.templates import TABLE as TEMPLATES  # noqa: E402
from llmspec.parts.templates.base import Turn  # noqa: E402
from llmspec.parts.tokenizers import TABLE as TOKENIZERS  # noqa: E402

SPOKEN = {"a": 0.5, "bb": 2.0, "a longer answer": 1.25}
"""Answers, and how much each counts."""
CONTEXT, D = 48, 12


@pytest.mark.parametrize("sample", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_loss_and_gradients(plain: bool, sample: bool) -> None:
    codec, template = TOKENIZERS["byte"]().train(()), TEMPLATES["role_tokens"]()
    turns: list[Any] = [[Turn("user", ("?",)), Turn("assistant", (text,))] for text in SPOKEN]
    data = encode_dialogues(codec, template, turns)._replace(weights=np.array([*SPOKEN.values()], np.float32))
    layout, batch = DialogueLayout(data, ("assistant",), CONTEXT, 0, True, ("s",)), blank(1, CONTEXT, 0)
    layout.gather(batch, np.array([0]), np.array([0]))
    arrays = {"loss_weights": batch.weights}
    counts = (by_sample([batch], [arrays])[0] if sample else arrays)["loss_weights"].reshape(-1)
    dice, V, targets = np.random.default_rng(3), codec.vocab, batch.targets.reshape(-1)
    x, w = dice.standard_normal((CONTEXT, D)).astype(np.float32), dice.standard_normal((V, D)).astype(np.float32)
    open_device("CPU")
    low = backend("CPU", plain)
    held, rest = tensors_from_numpy(x=x, w=w), tensors_from_numpy(targets=targets, loss_weights=counts / counts.sum())
    outputs, rest = Outputs(held["x"].reshape(1, CONTEXT, D), Linear(held["w"], None)), {**rest, **low.inputs}
    loss = CrossEntropy().build(Dims(D, 1, CONTEXT, V))(low.ops(rest), outputs, rest)["loss"]
    gradients = loss.gradient(held["x"], held["w"])
    Tensor.realize(loss, *gradients)

    theirs = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, w)]
    each = torch.nn.functional.cross_entropy(
        theirs[0] @ theirs[1].T, torch.from_numpy(targets).long(), reduction="none"
    )
    numbers, sums, over = batch.documents.reshape(-1), torch.zeros(()), 0.0
    for n in range(len(SPOKEN)):  # an answer's losses, by their number or their mean, times what its record weighs
        own = np.flatnonzero((numbers == n) & (counts > 0))
        weight = SPOKEN[codec.decode(targets[own[:-1]].tolist())]
        sums = sums + weight * (each[own].mean() if sample else each[own].sum())
        over += weight * (1 if sample else len(own))
    mean = sums / over
    mean.backward()
    assert float(to_numpy(loss)) == pytest.approx(mean.item(), rel=1e-5)
    for made, wanted in zip(gradients, theirs, strict=True):
        right = wanted.grad.numpy()
        assert np.linalg.norm(to_numpy(made) - right) <= 1e-5 * np.linalg.norm(right)
