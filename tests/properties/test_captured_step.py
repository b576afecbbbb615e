"""A replayed step does what tinygrad's own launch of it does, bit for bit, whatever its inputs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.model.device import open_device

open_device("CPU")
from tinygrad import Tensor, UOp  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.cpu import native  # noqa: E402
from llmspec.backends.cpu.captured_step import CapturedStep, Recorder  # noqa: E402
from llmspec.backends.cpu.step_cache import TOGETHER, WHOLE  # noqa: E402
from llmspec.backends.plain.backend import Backend  # noqa: E402
from llmspec.backends.tensors import Settled, Slots, refill, tensors_from_numpy, to_numpy  # noqa: E402
from llmspec.parts.ops import Update  # noqa: E402
from llmspec.parts.updates import MuonStep  # noqa: E402


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
    state = tensors_from_numpy(w=np.zeros((64, 1024), np.float32))
    jit, out = CapturedStep(function, tables), []
    for _ in range(5):
        inputs = tensors_from_numpy(x=rng.standard_normal((64, 1024)).astype(np.float32))
        out.append(jit(state, inputs).item())
    assert (jit.running is not None) == tables
    return [*out, state["w"].numpy().tobytes()]


def test_it_equals_tinygrads_launch() -> None:
    assert run(step, True) == run(step, False)


def test_small_calls_run_side_by_side_unless_one_reads_what_another_writes() -> None:
    """Muon's steps on twelve matrices, the last one a second time: the same bits as one after another."""
    low, names = backend("CPU"), [f"w{i}" for i in range(12)]

    def update(weights: dict[str, Tensor], moments: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        ops = low.ops(inputs)
        for name in (*names, names[-1]):
            rule = MuonStep(momentum=0.9, nesterov=True, decay=0.1, iterations=3)
            ops.update(Update(rule, (weights[name], moments[name]), inputs["g"], inputs["scale"], inputs["scalars"]))
            if name == names[-1]:
                Tensor.realize(*ops.written)
                ops.written.clear()
        return (inputs["g"] + 1).realize()

    def trained(replayed: bool) -> tuple[Any, list[bytes]]:
        rng = np.random.default_rng(0)
        drawn = lambda: {n: rng.standard_normal((40, 24)).astype(np.float32) for n in names}
        weights, moments, jit = (
            tensors_from_numpy(**drawn()),
            tensors_from_numpy(**drawn()),
            CapturedStep(update, replayed),
        )
        for _ in range(3):
            inputs = tensors_from_numpy(
                g=rng.standard_normal((40, 24)).astype(np.float32),
                scale=np.ones(1, np.float32),
                scalars=np.array([0.1], np.float32),
            )
            jit(weights, moments, {**inputs, **low.inputs})
        return jit.running, [t.numpy().tobytes() for t in (*weights.values(), *moments.values())]

    running, found = trained(True)
    assert found == trained(False)[1]
    counts = [row[1] >> TOGETHER for row in running.program.rows if row[1] & WHOLE]
    assert counts == [12]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["muon", "adam", ""]),
            st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), min_size=3, max_size=4),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_calls_that_run_side_by_side_share_no_byte_that_one_writes(
    calls: list[tuple[str, list[tuple[int, int]]]],
) -> None:
    """Wherever their arguments begin, views of one piece of memory at other offsets too; and only functions that are
    small run so."""
    made: Any = object.__new__(Recorder)
    made._called = [function for function, _ in calls]
    made._rows = [[i, len(touched) | 1 << TOGETHER] for i, (_, touched) in enumerate(calls)]
    made._touched = [[range(at, at + size) for at, size in touched] for _, touched in calls]
    made._join_small()
    row = 0
    while row < len(calls):
        together = made._rows[row][1] >> TOGETHER
        group = range(row, row + together)
        assert (together > 1) == bool(made._rows[row][1] & WHOLE)
        for one, other in itertools.permutations(group, 2):
            assert calls[one][0] == "muon"
            written, seen = made._touched[one][: native.SMALL["muon"]], made._touched[other]
            assert not {*itertools.chain(*written)} & {*itertools.chain(*seen)}
        row += together


def test_what_a_kernel_calls_is_read_off_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its name is; a kernel that only bears a function's name calls none."""
    low = backend("CPU")
    x, w = (Tensor(np.ones(shape, np.float32)).realize() for shape in ((3, 4), (4,)))

    def step(inputs: dict[str, Tensor]) -> Tensor:
        out = low.ops(inputs).rms_norm(inputs["x"], inputs["w"], 1e-5)
        return (out * 2).realize()

    recorded: list[Recorder] = []
    monkeypatch.setattr(Recorder, "_join_small", lambda self: recorded.append(self))
    CapturedStep(step)({"x": x, "w": w, **low.inputs})
    assert recorded[0]._called == ["rms_norm", ""]
    monkeypatch.setattr(native, "handle", lambda: x)  # addresses that came from elsewhere
    CapturedStep(step)({"x": x, "w": w, **low.inputs})
    assert recorded[1]._called == ["", ""]


def test_variables_and_fresh_inputs_reach_the_kernels() -> None:
    at, cache = UOp.variable("at", 0, 7), tensors_from_numpy(c=np.zeros((8, 4), np.float32))
    jit = CapturedStep(place)
    for i in (3, 0, 7, 3):
        jit(cache, tensors_from_numpy(x=np.full((1, 4), i + 1, np.float32)), at.bind(i))
    assert cache["c"].numpy()[:, 0].tolist() == [1, 0, 0, 4, 0, 0, 0, 8]


def test_other_weights_can_take_the_place_of_the_captured() -> None:
    jit = CapturedStep(step)
    one, two = (tensors_from_numpy(w=np.full((64, 1024), v, np.float32)) for v in (1, 2))
    x = tensors_from_numpy(x=np.ones((64, 1024), np.float32))
    jit(one, x)
    jit(two, x)
    assert two["w"].numpy()[0, 0] == 2.0 and one["w"].numpy()[0, 0] == 1.5


def total(state: dict[str, Tensor], inputs: dict[str, Tensor]) -> Tensor:
    return (state["w"] + inputs["x"]).contiguous().realize()


TOTAL = CapturedStep(total)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["settled", "plain"]), st.booleans()), min_size=1, max_size=8)
)
def test_what_is_settled_may_hold_other_numbers_and_give_way_to_others(calls: list[tuple[int, str, bool]]) -> None:
    """Whatever stood there before, a step reads what it is given now."""
    many = [tensors_from_numpy(w=np.full((2, 8), 10.0 * i, np.float32)) for i in range(4)]
    held = {"settled": [Settled(one) for one in many], "plain": many}
    slots, numbers = Slots({}, x=np.zeros((2, 8), np.float32)), [10.0 * i for i in range(4)]
    for turn, (which, how, anew) in enumerate(calls):
        if anew:
            numbers[which] = 1000.0 + turn
            refill(many[which]["w"], np.full((2, 8), numbers[which], np.float32))
        slots.arrays["x"][:] = turn
        found = TOTAL.array(held[how][which], slots.tensors())
        assert (found == numbers[which] + turn).all()


@pytest.mark.parametrize("low", [backend("CPU"), Backend("plain")], ids=["cpu", "plain"])
def test_the_array_of_a_step_is_what_it_returns_and_its_callers_own(low: Backend) -> None:
    jit, state = low.jit(total), tensors_from_numpy(w=np.ones((2, 8), np.float32))
    kept = [jit.array(state, tensors_from_numpy(x=np.full((2, 8), i, np.float32))) for i in range(4)]
    assert [float(a[1, 7]) for a in kept] == [1.0, 2.0, 3.0, 4.0]
    assert (to_numpy(jit(state, tensors_from_numpy(x=np.full((2, 8), 9, np.float32)))) == 10).all()


def test_an_array_of_other_numbers_is_refused() -> None:
    jit = CapturedStep(lambda inputs: (inputs["x"] > 0).contiguous().realize())
    x = tensors_from_numpy(x=np.ones((2, 8), np.float32))
    jit(x)
    with pytest.raises(TypeError, match="of the type bool, not float"):
        jit.array(x)


def test_a_call_with_other_tensors_is_refused() -> None:
    jit = CapturedStep(step)
    x = tensors_from_numpy(x=np.ones((64, 1024), np.float32))
    jit(tensors_from_numpy(w=np.ones((64, 1024), np.float32)), x)
    with pytest.raises(ValueError, match="captured with 2 tensors, not 3"):
        jit(tensors_from_numpy(w=np.ones((64, 1024), np.float32), v=np.ones(3, np.float32)), x)
    with pytest.raises(ValueError, match="tensor 1 of the step was captured with 262144 bytes, not 256"):
        jit(tensors_from_numpy(w=np.ones((64, 1024), np.float32)), tensors_from_numpy(x=np.ones((64, 1), np.float32)))


def test_a_step_that_closes_over_a_tensor_is_left_to_tinygrad() -> None:
    """Its content would not be there in another process."""
    held = tensors_from_numpy(h=np.full((64, 1024), 3, np.float32))["h"]
    jit = CapturedStep(lambda inputs: (inputs["x"] + held).sum().realize())
    for value in (1.0, 2.0, 5.0):
        assert jit(tensors_from_numpy(x=np.full((64, 1024), value, np.float32))).item() == (value + 3) * 65536
    assert jit.running is None
