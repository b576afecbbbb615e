"""Adapted layers beside peft's: what they give, their gradients, and what they are merged into."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "properties")]

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")]
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

transformers = pytest.importorskip("transformers")

from reference_dropout import of_numbers  # noqa: E402
from test_adapters import INPUTS, OUTPUTS, RANK, results, tensors  # noqa: E402
from test_hf_folders import config, written  # noqa: E402

import llmspec  # noqa: E402
from llmspec.backends.backend import backend  # noqa: E402
from llmspec.compiler.linear_layers import beside  # noqa: E402
from llmspec.formats import peft as ours  # noqa: E402
from llmspec.formats.hf.family import families  # noqa: E402
from llmspec.parts.adapters.lora import LoRA  # noqa: E402


class Kept(torch.nn.Module):  # type: ignore[misc]
    """Dropout whose random numbers are given."""

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = torch.tensor(kept, dtype=torch.float32)

    def forward(self, x: Any) -> Any:
        return x * self.kept


def theirs(given: dict[str, Any], adapter: LoRA, kept: Any = None) -> tuple[dict[str, Any], Any]:
    """(outputs and gradients as `results` names them, the merged weight) of peft's layer with the same numbers, and
    with what dropout multiplies its inputs with."""
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
    if kept is not None:
        layer.lora_dropout["default"] = Kept(kept)
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


@pytest.mark.parametrize(("rslora", "dora"), list(itertools.product((False, True), repeat=2)))
def test_dropout_is_pefts(rslora: bool, dora: bool) -> None:
    adapter = LoRA(r=RANK, alpha=5.0, rslora=rslora, dora=dora, dropout=0.3)
    weight = np.random.default_rng(11).standard_normal((OUTPUTS, INPUTS)).astype(np.float32)
    given, key = tensors(adapter, 12, weight), np.array([7, 8], np.uint32)
    wanted, _ = theirs(given, adapter, of_numbers(key, 1, given["x"].shape, 0.3))
    found = results(backend("CPU"), adapter, given, key)
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() <= 1e-5 * np.abs(array).max(), name


IDS = [1, 2, 3, 4, 5, 6]
FORMS = list(itertools.product((False, True), repeat=2))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder of transformers."""
    folder = tmp_path_factory.mktemp("base") / "theirs"
    written(folder, config(families()["llama"]))
    return folder


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize(("rslora", "dora"), FORMS)
def test_peft_reads_what_is_written_here(base: Path, tmp_path: Path, rslora: bool, dora: bool) -> None:
    rng, own = np.random.default_rng(3), llmspec.open(base)
    adapter = LoRA(r=2, alpha=5.0, rslora=rslora, dora=dora, targets=("q_proj", "mlp.*"))
    model, arrays = beside(own.plan.model, adapter), own.weights()
    for t in model.tensors:
        if t.name not in arrays:
            layer, _, name = t.name.partition(".lora_")
            fitted = adapter.fitted(arrays[f"{layer}.weight"])
            drawn = rng.standard_normal(t.shape).astype(np.float32) / 2
            arrays[t.name] = (
                fitted[f"lora_{name}"] * (1 + drawn * ("magnitude" in name))
                if dora and f"lora_{name}" in fitted
                else drawn
            )
    ours.write(tmp_path / "adapter", model, arrays, str(base))
    read = llmspec.open(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "adapter"
    )
    wanted, bare = logits(theirs), own.logits(IDS)
    assert np.abs(wanted - bare).max() > 1e-3
    assert np.abs(read.logits(IDS) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    merged = logits(theirs.merge_and_unload())
    assert np.abs(read.logits(IDS) - merged).max() <= 1e-4 * np.abs(wanted).max()


@pytest.mark.parametrize(("rslora", "dora"), FORMS)
def test_what_peft_writes_is_read_here(base: Path, tmp_path: Path, rslora: bool, dora: bool) -> None:
    torch.manual_seed(4)
    settings = peft.LoraConfig(
        r=3,
        lora_alpha=7,
        lora_dropout=0.1,
        use_rslora=rslora,
        use_dora=dora,
        target_modules=["q_proj", "v_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    made = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
    made.eval().save_pretrained(tmp_path / "adapter")
    found, wanted = llmspec.open(tmp_path / "adapter"), logits(made)
    assert np.abs(found.logits(IDS) - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.abs(llmspec.open(base).logits(IDS) - wanted).max() > 1e-2
