"""Training with the CPU's own kernels follows the plain operations, and dropout is what its definition says."""

from __future__ import annotations

import functools

import networks
import numpy as np
import pytest
from kernels import Array, numbers
from networks import Inputs, drawn_tokens, drawn_weights, memory, plan_of
from tinygrad import Tensor

from llmspec.backends.backend import backend
from llmspec.backends.plain.backend import Backend
from llmspec.backends.plain.ops import Ops
from llmspec.compiler.masks import Relation
from llmspec.compiler.plan import Plan
from llmspec.model.steps import Steps
from llmspec.model.transformer import Transformer
from llmspec.parts.dropout import Dropout

STEPS = 200


@functools.cache
def trained(plain: bool) -> tuple[Plan, Steps, Inputs, Inputs]:
    """Graphs that all seeds share, their weights and their state."""
    plan = plan_of(
        {
            "layers": 1,
            "position": {"kind": "rope"},
            "attention": {"heads": 4, "kv_heads": 2},
            "mlp": {"kind": "swiglu"},
        },
        optimizer={"kind": "adamw", "lr": 0.01},
        max_grad_norm=1.0,
    )
    return plan, Steps(plan.phases[0], backend("CPU", plain)), Inputs(), Inputs()


def curve(plain: bool, seed: int) -> Array:
    """Losses of small steps on a task that can be learned: the next token is a function of the last."""
    plan, steps, weights, state = trained(plain)
    low, _ = backend("CPU", plain), weights.put(drawn_weights(plan.model, seed))
    state.put({n: np.zeros(shape, np.float32) for n, shape in steps.state_shapes().items()})
    tables, data, losses = Inputs().put(Transformer(plan.model).tables()), Inputs(), []
    part = plan.phases[0].phase.optimizer
    for step in range(1, STEPS + 1):
        tokens = drawn_tokens(1000 * seed + step)
        targets = (tokens * 5 + 7) % networks.VOCAB
        inputs = data.put(
            {
                "tokens": tokens,
                "targets": targets.astype(np.int32),
                "ranges:causal": Relation().ranges(networks.CONTEXT),
                "loss_weights": np.full(tokens.shape, 1 / tokens.size, np.float32),
                "scalars": np.array(part.scalars(1.0, step), np.float32),
            }
        )
        loss, _ = steps.train(weights, state, tables, {**inputs, **low.inputs})
        losses.append(float(memory(loss)))
    return np.array(losses)


@pytest.mark.nightly  # plain kernels take half a minute to compile
def test_training_follows_the_plain_operations() -> None:
    """Rounding parts the two in time, but by less than another seed would."""
    ours, theirs = curve(False, 1), curve(True, 1)
    others = [curve(False, seed) for seed in (2, 3, 4, 5)]
    assert np.abs(ours[:20] - theirs[:20]).max() < 1e-4 * ours[0] and ours[-1] < ours[0] / 2
    late = slice(STEPS // 2, STEPS)
    assert abs(ours[late].mean() - theirs[late].mean()) <= np.std([c[late].mean() for c in others]) / 2


# -- dropout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout(rate: float) -> None:
    shape, inputs = (64, 129), Inputs()  # an odd count: the last pair of random words is cut

    def graph(t: dict[str, Tensor]) -> list[Tensor]:
        ops = Ops(t["key"], Dropout(mlp=rate))
        first, second = ops.dropout(t["x"], "mlp"), ops.dropout(t["x"], "mlp")
        (back,) = (first * 3).sum().gradient(t["x"])
        out = [y.contiguous() for y in (first, second, back)]
        Tensor.realize(*out)
        return out

    jit, x = Backend("plain").jit(graph), numbers(0, *shape) + 10

    def run(*key: int) -> list[Array]:
        return [memory(out).copy() for out in jit(inputs.put({"x": x, "key": np.array(key, np.uint32)}))]

    first, second, back = run(1, 2)
    kept = first != 0
    for out in (first, second):
        room = 4 * np.sqrt(rate * (1 - rate) / x.size)  # four standard errors
        assert abs((out != 0).mean() - (1 - rate)) < room
        assert abs((out != 0).mean(0) - (1 - rate)).max() < 5 * np.sqrt(rate * (1 - rate) / shape[0])
    np.testing.assert_allclose(first[kept], x[kept] / (1 - rate), rtol=1e-6)
    np.testing.assert_allclose(back, np.where(kept, 3 / (1 - rate), 0), rtol=1e-6)
    agree = (kept == (second != 0)).mean()
    assert abs(agree - (rate**2 + (1 - rate) ** 2)) < 0.03, "two sites share their bits"
    assert all(a.tobytes() == b.tobytes() for a, b in zip(run(1, 2), (first, second, back), strict=True))
    for other in ((1, 3), (2, 2), (2, 1)):
        assert abs(((run(*other)[0] != 0) == kept).mean() - (rate**2 + (1 - rate) ** 2)) < 0.03


def test_no_dropout_without_a_key_or_a_rate() -> None:
    x = object()
    for ops in (Ops(None, 0.5), Ops(object(), 0.0), Ops(object(), Dropout(mlp=0.5))):  # type: ignore[arg-type]
        assert ops.dropout(x, "residual") is x  # type: ignore[arg-type]
