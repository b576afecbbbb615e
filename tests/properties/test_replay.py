"""A replayed step does what tinygrad's own launch of it does, bit for bit, whatever its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llmspec.model.device import open_device

open_device("CPU")
from tinygrad import Tensor, UOp  # noqa: E402

from llmspec.kernels.programs import TOGETHER, WHOLE  # noqa: E402
from llmspec.kernels.replay import Replayed  # noqa: E402
from llmspec.model.lowering import lowering, numpy_inputs  # noqa: E402


def step(state: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """Reads, writes in place, and reduces over enough numbers that a kernel is split over cores."""
    loss = (state["w"] * inputs["x"]).sin().sum()
    Tensor.realize(loss, state["w"].assign(state["w"] * 0.5 + inputs["x"]))
    return loss


def place(cache: dict[str, Tensor], inputs: dict[str, Tensor], at: UOp) -> Tensor:
    whole = cache["c"]
    written = Tensor(whole.uop.after(whole[at : at + 1].uop.store(inputs["x"].uop)))
    out = written.sum()
    Tensor.realize(out, written)
    return out


def run(function: Any, tables: bool) -> list[Any]:
    rng = np.random.default_rng(0)
    state = numpy_inputs(w=np.zeros((64, 1024), np.float32))
    jit, out = Replayed(function, tables), []
    for _ in range(5):
        inputs = numpy_inputs(x=rng.standard_normal((64, 1024)).astype(np.float32))
        out.append(jit(state, inputs).item())
    assert (jit.running is not None) == tables
    return [*out, state["w"].numpy().tobytes()]


def test_it_equals_tinygrads_launch() -> None:
    assert run(step, True) == run(step, False)


def test_small_calls_run_side_by_side_unless_one_reads_what_another_writes() -> None:
    """Muon's steps on twelve matrices, the last one a second time: the same bits as one after another."""
    low, names = lowering("CPU"), [f"w{i}" for i in range(12)]

    def update(weights: dict[str, Tensor], moments: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        ops = low.ops(inputs)
        for name in (*names, names[-1]):
            ops.muon(weights[name], moments[name], inputs["g"], inputs["scale"], inputs["scalars"], momentum=0.9,
                     nesterov=True, decay=0.1, iterations=3)
            if name == names[-1]:
                Tensor.realize(*ops.written)
                ops.written.clear()
        return (inputs["g"] + 1).realize()

    def trained(replayed: bool) -> tuple[Any, list[bytes]]:
        rng = np.random.default_rng(0)
        drawn = lambda: {n: rng.standard_normal((40, 24)).astype(np.float32) for n in names}
        weights, moments, jit = numpy_inputs(**drawn()), numpy_inputs(**drawn()), Replayed(update, replayed)
        for _ in range(3):
            inputs = numpy_inputs(g=rng.standard_normal((40, 24)).astype(np.float32), scale=np.ones(1, np.float32),
                                  scalars=np.array([0.1], np.float32))
            jit(weights, moments, {**inputs, **low.inputs})
        return jit.running, [t.numpy().tobytes() for t in (*weights.values(), *moments.values())]

    running, found = trained(True)
    assert found == trained(False)[1]
    counts = [row[1] >> TOGETHER for row in running.program.rows if row[1] & WHOLE]
    assert counts == [12]


def test_variables_and_fresh_inputs_reach_the_kernels() -> None:
    at, cache = UOp.variable("at", 0, 7), numpy_inputs(c=np.zeros((8, 4), np.float32))
    jit = Replayed(place)
    for i in (3, 0, 7, 3):
        jit(cache, numpy_inputs(x=np.full((1, 4), i + 1, np.float32)), at.bind(i))
    assert cache["c"].numpy()[:, 0].tolist() == [1, 0, 0, 4, 0, 0, 0, 8]


def test_other_weights_can_take_the_place_of_the_captured() -> None:
    jit = Replayed(step)
    one, two = (numpy_inputs(w=np.full((64, 1024), v, np.float32)) for v in (1, 2))
    x = numpy_inputs(x=np.ones((64, 1024), np.float32))
    jit(one, x)
    jit(two, x)
    assert two["w"].numpy()[0, 0] == 2.0 and one["w"].numpy()[0, 0] == 1.5


def test_a_call_with_other_tensors_is_refused() -> None:
    jit = Replayed(step)
    x = numpy_inputs(x=np.ones((64, 1024), np.float32))
    jit(numpy_inputs(w=np.ones((64, 1024), np.float32)), x)
    with pytest.raises(ValueError, match="captured with 2 tensors, not 3"):
        jit(numpy_inputs(w=np.ones((64, 1024), np.float32), v=np.ones(3, np.float32)), x)


def test_a_step_that_closes_over_a_tensor_is_left_to_tinygrad() -> None:
    """Its content would not be there in another process."""
    held = numpy_inputs(h=np.full((64, 1024), 3, np.float32))["h"]
    jit = Replayed(lambda inputs: (inputs["x"] + held).sum().realize())
    for value in (1.0, 2.0, 5.0):
        assert jit(numpy_inputs(x=np.full((64, 1024), value, np.float32))).item() == (value + 3) * 65536
    assert jit.running is None
