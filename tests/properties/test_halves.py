"""Weights of 16 bits a number: they stay so in memory, and give bit for bit what they give in float32."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import half_cases
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import call, numbers

from llmspec.core.devices import processor
from llmspec.core.quantised import Quantised, quantise
from llmspec.model.device import open_device

open_device("CPU")

from tinygrad import Tensor  # noqa: E402  (the compiler comes first)

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.cpu import early, native  # noqa: E402
from llmspec.backends.plain.backend import Backend  # noqa: E402
from llmspec.parts.ops import HALF, Linear, WeightLayout  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
kinds = pytest.mark.parametrize("name", half_cases.TYPES)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_products_have_the_bits_of_float32(data: st.DataObject) -> None:
    half, plain = half_cases.pairs(lambda values: data.draw(st.sampled_from(values)))
    (ours,), (theirs,) = (call(native.library(), case) for case in (half, plain))
    assert ours.tobytes() == theirs.tobytes()


SAME = """
import sys
import numpy as np
from half_cases import pairs
from kernels import call
from llmspec.backends.cpu import native
rng = np.random.default_rng(7)
pick = lambda values: values[rng.integers(len(values))]
for _ in range(15):
    half, plain = pairs(pick)
    assert call(native.library(), half)[0].tobytes() == call(native.library(), plain)[0].tobytes(), half.numbers
print(native.provider().name)
"""


@pytest.mark.parametrize("instructions", [name for name in early.SETS if name])
def test_the_same_holds_for_other_instructions(instructions: str) -> None:
    """The last of them have no conversion of halves, and use the portable one."""
    if instructions not in processor():
        pytest.skip(f"no {instructions} here")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    given_ = {**os.environ, "PYTHONPATH": paths, "LLMSPEC_INSTRUCTIONS": instructions}
    done = subprocess.run([sys.executable, "-c", SAME], capture_output=True, text=True, env=given_, timeout=300)
    assert done.returncode == 0 and instructions.upper() in done.stdout, done.stderr[-3000:]


def held(made: Any, arrays: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return made.hold(arrays, frozenset(arrays))


@kinds
@pytest.mark.parametrize("k", [1, 33, 64])
def test_they_take_two_bytes_a_number(name: str, k: int) -> None:
    made, weight = backend("CPU"), quantise(name, numbers(1, 5, k))
    tensors, layouts = held(made, {"w": weight})
    assert tensors["w"].nbytes() == 2 * 5 * k and layouts["w"] == WeightLayout(name, 5, k)
    assert np.array_equal(made.numbers(tensors["w"], layouts["w"]), weight.dequantised())
    plain, none = made.hold({"w": weight}, frozenset())
    assert not none and np.array_equal(made.numbers(plain["w"], None), weight.dequantised())


@kinds
def test_numbers_that_lie_so_can_be_read_by_any_operation(name: str) -> None:
    """A sum of two layers' weights, which no linear layer computes."""
    from llmspec.parts.ops import matrices

    weight = quantise(name, numbers(1, 5, 7))
    tensors, layouts = held(backend("CPU"), {"w": weight})
    (found,) = matrices([Linear(tensors["w"], None, layouts["w"])])
    assert np.array_equal((found + found).numpy(), 2 * weight.dequantised())


Layers = Callable[[Any, Tensor, list[Linear]], Tensor]


@pytest.mark.parametrize("by_sequence", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 9), (1, 300)])
def test_layers_of_all_types_side_by_side(by_sequence: bool, shape: tuple[int, int]) -> None:
    """Halves, bfloat16, packed blocks and float32 in one call of linears: each gives what it gives by itself."""
    made, x = backend("CPU"), numbers(3, *shape, 64)
    arrays: dict[str, Any] = {t: quantise(t, numbers(4 + i, 9, 64)) for i, t in enumerate(("f16", "bf16", "q8_0"))}
    tensors, layouts = held(made, {**arrays, "f32": numbers(9, 9, 64)})
    ops = made.ops(made.inputs, by_sequence=by_sequence)
    layers = [Linear(tensors[n], None, layouts.get(n)) for n in ("f16", "f32", "bf16", "q8_0")]
    for some in (layers[:3], layers[1:], [layers[3], layers[0]]):
        together = ops.linears(Tensor(x), some).numpy()
        alone = [ops.linear(Tensor(x), layer).numpy() for layer in some]
        assert np.array_equal(together, np.concatenate(alone, axis=-1))
    for layer, name in ((layers[0], "f16"), (layers[2], "bf16")):
        float32 = ops.linear(Tensor(x), Linear(Tensor(arrays[name].dequantised())))
        assert np.array_equal(ops.linear(Tensor(x), layer).numpy(), float32.numpy())


def test_they_have_no_gradient_and_say_so() -> None:
    made = backend("CPU")
    tensors, layouts = held(made, {"w": quantise("f16", numbers(1, 5, 7))})
    x = Tensor(numbers(2, 3, 7))
    with pytest.raises(TypeError, match="no gradient"):
        made.ops(made.inputs).linear(x, Linear(tensors["w"], None, layouts["w"])).sum().gradient(x)


@kinds
def test_a_backend_of_halves_takes_those_that_it_can_hold_exactly(name: str) -> None:
    """A GPU's, here on the CPU: numbers of bfloat16 that are too small or too large for halves stay float32."""
    made, x = Backend("plain", halves=True), numbers(1, 4, 8)
    tiny, large = (np.where(np.arange(32).reshape(4, 8) == 5, np.float32(v), x) for v in (1e-12, 1e6))
    arrays: dict[str, Quantised] = {"usual": quantise(name, x), "tiny": quantise(name, tiny)}
    if name == "bf16":
        arrays["large"] = quantise(name, large)
    tensors, layouts = held(made, arrays)
    assert layouts["usual"].type == HALF and set(layouts) == {"usual", *(["tiny"] if name == "f16" else [])}
    for n, weight in arrays.items():
        assert np.array_equal(made.numbers(tensors[n], layouts.get(n)), weight.dequantised())
