"""Softcap, scale, trained bias and sinks of scores, T5's buckets and norms of queries and keys are transformers'."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hypothesis import given as given_drawn  # noqa: E402
from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from networks import EPS, memory, seen_by  # noqa: E402
from tinygrad import Tensor  # noqa: E402  (networks opens the device)
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward  # noqa: E402
from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as with_sinks  # noqa: E402
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm  # noqa: E402
from transformers.models.t5.modeling_t5 import T5Attention  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy  # noqa: E402
from llmspec.parts.base import Dims  # noqa: E402
from llmspec.parts.ops import Scores  # noqa: E402
from llmspec.parts.positions.t5_relative import T5Relative  # noqa: E402

B, T, H, K, D = 2, 70, 4, 2, 16
SCALE, SOFTCAP = 0.31, 5.0


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("plain", [False, True])
def test_softcap_before_the_bias_as_in_gemma(plain: bool) -> None:
    """Values and all gradients of transformers' own function, in float64; the bias is its additive mask."""
    q, k, v, bias = drawn(1, B, T, H, D), drawn(2, B, T, K, D), drawn(3, B, T, K, D), drawn(4, 1, H, T, T)
    g = drawn(5, B, T, H, D)
    ranges = np.stack([np.maximum(0, np.arange(T) - 20), np.arange(T) + 1], -1)[None].astype(np.int32)
    low = backend("CPU", plain)
    given = tensors_from_numpy(q=q, k=k, v=v, bias=bias, ranges=ranges, g=g)
    variables = [given[n] for n in ("q", "k", "v", "bias")]
    scores = Scores(SCALE, SOFTCAP, given["bias"], bias_gradient=True)
    y = low.ops(low.inputs).attention(*variables[:3], given["ranges"], scores)
    ours = [x.contiguous() for x in (y, *(y * given["g"]).sum().gradient(*variables))]
    Tensor.realize(*ours)
    peers = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (q, k, v, bias)]
    hidden = torch.tensor(np.where(seen_by(ranges, T)[:, None], 0.0, -1e300))
    module = SimpleNamespace(num_key_value_groups=H // K, training=False)
    heads = [x.transpose(1, 2) for x in peers[:3]]
    out, _ = eager_attention_forward(module, *heads, peers[3] + hidden, scaling=SCALE, softcap=SOFTCAP)
    (out * torch.tensor(g, dtype=torch.float64)).sum().backward()
    for mine, theirs in zip(ours, (out, *(p.grad for p in peers)), strict=True):
        wanted = theirs.detach().numpy()
        assert np.abs(memory(mine) - wanted).max() <= 400 * EPS * max(1.0, np.abs(wanted).max())


@pytest.mark.parametrize("plain", [False, True])
def test_norms_of_queries_and_keys_as_in_qwen(plain: bool) -> None:
    x, q, k = drawn(1, B, T, H + 2 * K, D), drawn(2, D), drawn(3, D)
    low, given = backend("CPU", plain), tensors_from_numpy(x=x, q=q, k=k)
    made = low.ops(low.inputs).qk_norm(given["x"], H, given["q"], given["k"], 1e-6).contiguous().realize()
    norms = [Qwen3RMSNorm(D, 1e-6) for _ in range(2)]
    for norm, weight in zip(norms, (q, k), strict=True):
        norm.weight.data = torch.tensor(weight)
    with torch.no_grad():
        wanted = [norms[0](torch.tensor(x[:, :, :H])), norms[1](torch.tensor(x[:, :, H : H + K]))]
    expected = np.concatenate([*(w.numpy() for w in wanted), x[:, :, H + K :]], 2)
    np.testing.assert_allclose(memory(made), expected, rtol=0, atol=32 * EPS * np.abs(expected).max())


@pytest.mark.parametrize("plain", [False, True])
def test_sinks_as_in_gpt_oss(plain: bool) -> None:
    """Values and all gradients of transformers' own function, in float64."""
    q, k, v, sinks = drawn(1, B, T, H, D), drawn(2, B, T, K, D), drawn(3, B, T, K, D), drawn(4, H)
    g = drawn(5, B, T, H, D)
    ranges = np.stack([np.maximum(0, np.arange(T) - 20), np.arange(T) + 1], -1)[None].astype(np.int32)
    low = backend("CPU", plain)
    given = tensors_from_numpy(q=q, k=k, v=v, sinks=sinks, ranges=ranges, g=g)
    variables = [given[n] for n in ("q", "k", "v", "sinks")]
    y = low.ops(low.inputs).attention(*variables[:3], given["ranges"], Scores(SCALE, sinks=given["sinks"]))
    ours = [x.contiguous() for x in (y, *(y * given["g"]).sum().gradient(*variables))]
    Tensor.realize(*ours)
    peers = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (q, k, v, sinks)]
    hidden = torch.tensor(np.where(seen_by(ranges, T)[:, None], 0.0, -1e300))
    module = SimpleNamespace(num_key_value_groups=H // K, training=False, sinks=peers[3])
    out, _ = with_sinks(module, *(x.transpose(1, 2) for x in peers[:3]), hidden, scaling=SCALE)
    (out * torch.tensor(g, dtype=torch.float64)).sum().backward()
    for mine, theirs in zip(ours, (out, *(p.grad for p in peers)), strict=True):
        wanted = theirs.detach().numpy()
        assert np.abs(memory(mine) - wanted).max() <= 400 * EPS * max(1.0, np.abs(wanted).max())


@settings(deadline=None, max_examples=60)
@given_drawn(st.integers(2, 24).map(lambda n: 2 * n), st.integers(2, 400), st.integers(1, 600), st.booleans())
def test_buckets_of_distances_as_in_t5(buckets: int, max_distance: int, context: int, both_ways: bool) -> None:
    part = T5Relative(buckets=buckets, max_distance=max_distance)
    dims = Dims(8, 1, context, 9, 1, 1, 8, looks_ahead=both_ways)
    if list(part.check(dims)):
        return
    ahead = torch.arange(1 - context, context)
    theirs = T5Attention._relative_position_bucket(ahead, both_ways, buckets, max_distance).numpy()
    assert (part.tables(dims)["buckets"] == theirs).all()
