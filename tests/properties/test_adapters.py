"""Adapted layers against float64: what they give, their gradients, and the weights that they are merged into."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import reference
from networks import EPS
from reference_dropout import of_numbers
from test_backend import Inputs

from llmspec.backends.backend import backend
from llmspec.backends.cpu.quantised import PACKED
from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import to_numpy
from llmspec.core.quantised import Quantised, quantise
from llmspec.model.weight_view import Weights
from llmspec.parts.adapters.lora import LoRA
from llmspec.parts.ops import HALVES

N, INPUTS, OUTPUTS, RANK = 5, 64, 48, 3
FORMS = [LoRA(r=RANK, alpha=5.0, rslora=rs, dora=do) for rs, do in itertools.product((False, True), repeat=2)]
Arrays = dict[str, np.ndarray]


def tensors(adapter: LoRA, seed: int, weight: Any) -> dict[str, Any]:
    """A layer that has been trained for a while, with a bias, its adapter, and an input."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    found = {"l.weight": weight, "l.bias": drawn(OUTPUTS), "x": drawn(N, INPUTS), "g": drawn(N, OUTPUTS)}
    found |= {"l.lora_A.weight": drawn(RANK, INPUTS) / 8, "l.lora_B.weight": drawn(OUTPUTS, RANK) / 4}
    fitted = adapter.fitted(weight.dequantised() if isinstance(weight, Quantised) else weight)
    found |= {f"l.{name}": array for name, array in fitted.items()}
    if adapter.dora:
        found["l.lora_magnitude"] = found["l.lora_magnitude"] * (1 + drawn(OUTPUTS) / 10)
    return found


def results(low: Backend, adapter: LoRA, given: Mapping[str, Any], key: Any = None) -> Arrays:
    """Outputs, and the gradients of the sum of outputs · g for the inputs and the adapter's tensors; with a `key` as in
    training."""
    held, layouts = low.hold(given, frozenset({"l.weight"}))
    inputs = Inputs().put({"x": given["x"], "g": given["g"]})
    view = Weights(held, layouts=layouts, frozen=frozenset({"l.weight", "l.bias"}), adapter=adapter)
    drawn = None if key is None else Inputs().put({"key": key})["key"]
    y = low.ops(low.inputs, drawn).linear(inputs["x"], view.linear("l"))
    trained = [name for name in held if "lora" in name and "norm" not in name]
    back = (y * inputs["g"]).sum().gradient(inputs["x"], *(held[name] for name in trained))
    names = ("y", "x", *trained)
    return {name: to_numpy(t.contiguous().realize()) for name, t in zip(names, (y, *back), strict=True)}


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("adapter", FORMS, ids=lambda a: f"rslora={a.rslora} dora={a.dora}")
def test_a_layer_and_its_gradients_are_those_of_float64(adapter: LoRA, plain: bool) -> None:
    weight = np.random.default_rng(1).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    given = tensors(adapter, 2, weight)
    found = results(backend("CPU", plain), adapter, given)
    wanted = reference.lora(given, adapter.alpha, adapter.rslora, adapter.dora)
    assert set(found) == set(wanted)
    for name, exact in wanted.items():
        assert np.abs(found[name] - exact).max() <= 64 * EPS * max(1.0, np.abs(exact).max()) * 8, name


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("adapter", FORMS, ids=lambda a: f"rslora={a.rslora} dora={a.dora}")
def test_what_it_reads_is_dropped_in_training_alone(adapter: LoRA, plain: bool) -> None:
    """The layer itself reads all of its inputs."""
    dropping = adapter.model_copy(update={"dropout": 0.4})
    weight = np.random.default_rng(1).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    given, key = tensors(adapter, 2, weight), np.array([5, 6], np.uint32)
    low = backend("CPU", plain)
    found, kept = results(low, dropping, given, key), of_numbers(key, 1, given["x"].shape, 0.4)
    wanted = reference.lora(given, adapter.alpha, adapter.rslora, adapter.dora, kept)
    for name, exact in wanted.items():
        assert np.abs(found[name] - exact).max() <= 64 * EPS * max(1.0, np.abs(exact).max()) * 8, name
    for name, array in results(low, adapter, given, key).items():
        assert array.tobytes() == results(low, dropping, given)[name].tobytes(), "validation drops nothing"
        assert np.abs(array - found[name]).max() > 1e-2, name


@pytest.mark.parametrize("type", [*sorted(PACKED), *HALVES])
@pytest.mark.parametrize("adapter", FORMS, ids=lambda a: f"rslora={a.rslora} dora={a.dora}")
def test_a_quantised_base_is_read_as_the_numbers_that_it_stands_for(adapter: LoRA, type: str) -> None:
    rng, low = np.random.default_rng(3), backend("CPU")
    wide = 256 if type.endswith("k") else INPUTS
    weight = quantise(type, rng.standard_normal((OUTPUTS, wide)).astype(np.float32))
    given = tensors(adapter, 4, weight)
    given |= {"x": rng.standard_normal((N, wide)).astype(np.float32)}
    given["l.lora_A.weight"] = rng.standard_normal((RANK, wide)).astype(np.float32) / 16
    packed = results(low, adapter, given)
    floats = results(low, adapter, {**given, "l.weight": weight.dequantised()})
    for name, array in floats.items():
        assert np.abs(packed[name] - array).max() <= 1e-5 * np.abs(array).max(), name


@pytest.mark.parametrize("adapter", FORMS, ids=lambda a: f"rslora={a.rslora} dora={a.dora}")
def test_the_merged_weight_does_what_layer_and_adapter_do(adapter: LoRA) -> None:
    weight = np.random.default_rng(5).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    given = tensors(adapter, 6, weight)
    own = {name.removeprefix("l."): a for name, a in given.items() if "lora" in name}
    merged = adapter.merged(weight, own)
    wanted = reference.lora(given, adapter.alpha, adapter.rslora, adapter.dora)["y"]
    assert np.abs(given["x"].astype(np.float64) @ merged.T.astype(np.float64) + given["l.bias"] - wanted).max() <= 1e-5


@pytest.mark.parametrize("type", ["q4_1", "q6_k", "f16"])
def test_the_loss_of_a_quantised_head_is_that_of_its_numbers(type: str) -> None:
    """In more rows than are made float32 at once. What makes float32 of nothing has the very bits."""
    from llmspec.parts.ops import Linear

    rng, low = np.random.default_rng(7), backend("CPU")
    weight = quantise(type, rng.standard_normal((8000, 256)).astype(np.float32))
    hidden = rng.standard_normal((6, 256)).astype(np.float32) / 8
    ids = rng.integers(0, 8000, 6).astype(np.int32)
    held, layouts = low.hold({"w": weight, "f": weight.dequantised()}, frozenset({"w"}))
    found = []
    for layer in (Linear(held["w"], None, layouts["w"], True), Linear(held["f"], None, None, True), Linear(held["f"])):
        t = Inputs().put({"x": hidden, "ids": ids})
        losses = low.ops(low.inputs).linear_cross_entropy(t["x"], layer, t["ids"], 0.1, 20.0)
        back = (losses * 0.5).sum().gradient(t["x"])[0]
        found.append([to_numpy(one.contiguous().realize()) for one in (losses, back)])
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found[1], found[2], strict=True))
    assert found[0][0].tobytes() == found[2][0].tobytes()
    assert np.abs(found[0][1] - found[2][1]).max() <= 1e-6 * np.abs(found[2][1]).max()
