"""Adapted layers beside peft's: what they give, their gradients, and what they are merged into."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "properties")]

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from test_adapters import INPUTS, OUTPUTS, RANK, results, tensors  # noqa: E402

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.parts.adapters.lora import LoRA  # noqa: E402


def theirs(given: dict[str, Any], adapter: LoRA) -> tuple[dict[str, Any], Any]:
    """(outputs and gradients as `results` names them, the merged weight) of peft's layer with the same numbers."""
    model = torch.nn.Sequential()
    model.add_module("l", torch.nn.Linear(INPUTS, OUTPUTS))
    settings = peft.LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        target_modules=["l"],
        lora_dropout=0.0,
    )
    with torch.no_grad():
        model.l.weight.copy_(torch.tensor(given["l.weight"]))
        model.l.bias.copy_(torch.tensor(given["l.bias"]))
    made = peft.get_peft_model(model, settings)
    layer = made.base_model.model.l
    own = {"l.lora_A.weight": layer.lora_A["default"].weight, "l.lora_B.weight": layer.lora_B["default"].weight}
    if adapter.dora:
        own["l.lora_magnitude"] = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.tensor(given[name]))
    x = torch.tensor(given["x"], requires_grad=True)
    y = layer(x)
    (y * torch.tensor(given["g"])).sum().backward()
    found = {"y": y.detach().numpy(), "x": x.grad.numpy(), **{n: t.grad.numpy() for n, t in own.items()}}
    layer.merge()
    return found, layer.get_base_layer().weight.detach().numpy()


@pytest.mark.parametrize(("rslora", "dora"), list(itertools.product((False, True), repeat=2)))
def test_a_layer_its_gradients_and_its_merge_are_pefts(rslora: bool, dora: bool) -> None:
    adapter = LoRA(r=RANK, alpha=5.0, rslora=rslora, dora=dora)
    weight = np.random.default_rng(11).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    given = tensors(adapter, 12, weight)
    wanted, merged = theirs(given, adapter)
    found = results(backend("CPU"), adapter, given)
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name
    own = {name.removeprefix("l."): a for name, a in given.items() if "lora" in name}
    assert np.abs(adapter.merged(weight, own) - merged).max() <= 1e-5 * np.abs(merged).max()
