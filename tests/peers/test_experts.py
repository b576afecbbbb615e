"""Routing and the load-balancing loss beside transformers' own functions."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from networks import backend  # noqa: E402
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func  # noqa: E402

from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.parts.mlps.mixture_of_experts import MixtureOfExperts  # noqa: E402


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (5, 1), (60, 4)])
def test_choice_and_loss_are_transformers(experts: int, top_k: int, plain: bool) -> None:
    """The same experts for every token, the same loss and the same gradient of it, of one layer."""
    logits = np.random.default_rng(experts).standard_normal((3, 17, experts)).astype(np.float32)
    low = backend("CPU", plain)
    given = tensors_from_numpy(logits=logits)["logits"]
    ops, part = low.ops(low.inputs), MixtureOfExperts(experts=experts, top_k=top_k, balance=1.0)
    routing = ops.router(given, None, top_k, sigmoid=False, normalise=True, scale=1.0)
    part.tell(ops, routing)
    (slope,) = ops.losses["balance"].gradient(given)
    theirs = torch.from_numpy(logits.reshape(-1, experts)).requires_grad_()
    loss = load_balancing_loss_func((theirs,), experts, top_k)
    loss.backward()
    chosen = torch.topk(theirs.softmax(-1), top_k, -1).indices.numpy()
    assert (to_numpy(routing.tokens.realize()) == np.bincount(chosen.reshape(-1), minlength=experts)).all()
    held = to_numpy(routing.choices.contiguous().realize())
    place = to_numpy(routing.places.contiguous().realize())
    assert (held[place] == np.arange(chosen.size)).all()
    order = np.argsort(chosen.reshape(-1), kind="stable")
    assert (held[held >= 0] == order).all()  # rows of each expert, tokens in their order
    assert float(to_numpy(ops.losses["balance"].realize())) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(
        to_numpy(slope.contiguous().realize()).reshape(-1, experts), theirs.grad.numpy(), rtol=1e-4, atol=1e-7
    )
