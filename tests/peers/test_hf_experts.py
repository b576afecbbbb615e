"""Routing and the load-balancing loss beside transformers' own functions and models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_cases import FAMILIES, model_in  # noqa: E402
from hypothesis import given as drawn  # noqa: E402
from hypothesis import seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from networks import backend  # noqa: E402
from test_hf import GRADIENTS, QUIET, apart, named_gradients  # noqa: E402
from tinygrad import Tensor  # noqa: E402
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func  # noqa: E402

import llmspec  # noqa: E402
from llmspec.backends import owner  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.compiler.masks import padding_inputs, range_inputs  # noqa: E402
from llmspec.model.transformer import block_context  # noqa: E402
from llmspec.parts.mlps.mixture_of_experts import MixtureOfExperts  # noqa: E402
from llmspec.parts.ops import RoutingRule  # noqa: E402


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (5, 1), (60, 4)])
def test_choice_and_loss_are_transformers(experts: int, top_k: int, masked: bool, plain: bool) -> None:
    """The same experts for every token, and of one layer the same loss and gradient, beside padding too."""
    logits = np.random.default_rng(experts).standard_normal((3, 17, experts)).astype(np.float32)
    low = backend("CPU", plain)
    given = tensors_from_numpy(logits=logits)["logits"]
    ops, part = low.ops(low.inputs), MixtureOfExperts(experts=experts, top_k=top_k, balance=1.0)
    seen = (np.arange(17) < np.array([[17], [5], [11]])).astype(np.int32)
    ops.counted = tensors_from_numpy(seen=seen)["seen"] if masked else None
    routing = ops.router(given, None, RoutingRule(top_k))
    part.tell(ops, routing)
    (slope,) = ops.losses["balance"].gradient(given)
    theirs = torch.from_numpy(logits.reshape(-1, experts)).requires_grad_()
    loss = load_balancing_loss_func((theirs,), experts, top_k, torch.from_numpy(seen) if masked else None)
    loss.backward()
    chosen = torch.topk(theirs.softmax(-1), top_k, -1).indices.numpy()
    counted = chosen[seen.reshape(-1) > 0] if masked else chosen
    assert (
        to_numpy(routing.tokens.contiguous().realize()) == np.bincount(counted.reshape(-1), minlength=experts)
    ).all()
    held = to_numpy(routing.choices.contiguous().realize())
    place = to_numpy(routing.places.contiguous().realize())
    assert (held[place] == np.arange(chosen.size)).all()
    order = np.argsort(chosen.reshape(-1), kind="stable")
    assert (held[held >= 0] == order).all()  # rows of each expert, tokens in their order
    assert float(to_numpy(ops.losses["balance"].realize())) == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(
        to_numpy(slope.contiguous().realize()).reshape(-1, experts), theirs.grad.numpy(), rtol=1e-4, atol=1e-7
    )


LENGTHS = (19, 7, 12)


def losses(opened: Any, tokens: np.ndarray, seen: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    """Mean cross entropy of what is no padding plus the load-balancing loss, and its gradients by our names."""
    plan = opened.plan.model
    ranges = range_inputs(plan, False, tokens.shape[1], filled_B=LENGTHS)
    padding = padding_inputs(plan, plan.decoder, LENGTHS, tokens.shape[1])
    assert (padding["filled"] == seen).all()
    with owner.turn():
        weights = opened._weights
        inputs = {**tensors_from_numpy(tokens=tokens, **ranges, **padding), **opened._backend.inputs}
        ops = opened._backend.ops(inputs)
        opened.decoder.positions.reach(tokens.shape[1])
        logits = opened._model.logits(ops, {**weights, **opened._tables}, inputs, block_context(inputs))
        each = -logits[:, :-1].log_softmax(-1).gather(-1, inputs["tokens"][:, 1:].unsqueeze(-1)).squeeze(-1)
        counts = tensors_from_numpy(counts=seen[:, 1:].astype(np.float32))["counts"]
        loss = (each * counts).sum() / counts.sum() + ops.losses["balance"]
        trained = [t.name for t in plan.trained]
        slopes = loss.gradient(*(weights[name] for name in trained))
        Tensor.realize(loss, *slopes)
        return float(to_numpy(loss)), {n: to_numpy(g) for n, g in zip(trained, slopes, strict=True)}


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_padding_counts_in_no_loss_of_a_model(family: str, tmp_path: Path) -> None:
    """Loss and every gradient of a batch with an attention mask: of one layer as transformers adds it up, of several as
    the sum of what its function gives for each (Fedus et al. 2022 add a loss for each layer)."""

    @seed(2)
    @settings(max_examples=3, **QUIET)
    @drawn(FAMILIES[family](), st.integers(0, 1 << 30))
    def check(config: Any, number: int) -> None:
        config.router_aux_loss_coef = 0.3
        folder = tmp_path / str(number)
        model = model_in(folder, config, number)
        opened = llmspec.open(folder)
        tokens = np.random.default_rng(number).integers(6, config.vocab_size, (3, max(LENGTHS))).astype(np.int64)
        seen = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
        mask, ids = torch.from_numpy(seen), torch.from_numpy(tokens)
        out = model(ids, attention_mask=mask, labels=ids.where(mask > 0, -100), output_router_logits=True)
        many, top_k = out.router_logits[0].shape[-1], config.num_experts_per_tok
        each = [load_balancing_loss_func((layer,), many, top_k, mask) for layer in out.router_logits]
        if len(each) == 1:
            assert float(each[0].detach()) == pytest.approx(float(out.aux_loss.detach()), rel=1e-6)
        whole = out.loss - 0.3 * out.aux_loss + 0.3 * sum(each)
        whole.backward()
        loss, slopes = losses(opened, tokens.astype(np.int32), seen)
        assert loss == pytest.approx(float(whole.detach()), rel=1e-5)
        assert apart(slopes, named_gradients(opened, folder, model)) < GRADIENTS

    check()
