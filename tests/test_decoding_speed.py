"""What a drawn token reads, and what is said of the speed of drawing."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf_files
import numpy as np
import pytest

import llmspec
from llmspec.api import explained_file
from llmspec.cli.sample import speed_of
from llmspec.compiler.compile import compile_spec
from llmspec.compiler.decoding_cost import weight_bytes
from llmspec.core.weight_types import TYPES
from llmspec.forecast import decoding, machine
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.tables import tables
from llmspec.model.device import open_device
from llmspec.spec import Spec

MODEL: dict[str, Any] = {
    "context": 16,
    "d_model": 8,
    "layers": 2,
    "attention": {"heads": 2},
    "position": {"kind": "rope"},
}
EXPERTS = {"kind": "mixture_of_experts", "experts": 6, "top_k": 2, "expert": {"kind": "swiglu", "d_ff": 12}}
READ: tuple[dict[str, Any], ...] = ({}, {"mlp": EXPERTS}, {"encoder": {"layers": 3}, "cross_attention": {}})
QUANTISED = {"blk.0.attn_q.weight": "q4_0", "blk.1.ffn_down.weight": "q8_0", "token_embd.weight": "q8_0"}


def compiled(**model: Any) -> Any:
    settings = {"name": "m", "device": "CPU", "model": {**MODEL, **model}, "tokenizer": {"kind": "byte"}}
    return compile_spec(Spec.model_validate(settings)).model


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of which nothing is known yet."""
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "cache"))


def test_every_weight_is_read_once_but_tables_of_which_one_row_is() -> None:
    tied, own = (compiled(heads={"lm": {"kind": "lm", "tied": t}}) for t in (True, False))
    sizes = {t.name: 4 * t.count for t in own.tensors}
    assert weight_bytes(tied, {}) == sum(4 * t.count for t in tied.tensors)
    assert weight_bytes(own, {}) == sum(sizes.values()) - sizes["embed_tokens.weight"]
    learned = compiled(position={"kind": "learned"}, heads={"lm": {"kind": "lm", "tied": True}})
    assert weight_bytes(learned, {}) == sum(4 * t.count for t in learned.tensors if "position" not in t.name)


def test_of_experts_those_count_that_a_token_takes() -> None:
    expert = {"kind": "swiglu", "d_ff": 12}
    whole, some = (
        compiled(mlp={"kind": "mixture_of_experts", "experts": 6, "top_k": k, "expert": expert}) for k in (6, 2)
    )
    stacks = sum(4 * t.count for t in whole.tensors if len(t.shape) == 3)
    assert stacks == 2 * 3 * 6 * 8 * 12 * 4
    assert weight_bytes(whole, {}) - weight_bytes(some, {}) == pytest.approx(stacks * (1 - 2 / 6))


def test_an_encoder_is_not_read_for_each_token() -> None:
    pair = compiled(encoder={"layers": 3}, cross_attention={})
    of_encoder = sum(4 * t.count for t in pair.tensors if t.name.startswith("encoder."))
    assert of_encoder and weight_bytes(pair, {}) == sum(4 * t.count for t in pair.tensors) - of_encoder


def test_types_in_a_file_are_those_in_memory(tmp_path: Path) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", tables()["llama"], QUANTISED)
    file, model = GGUFFile(path), llmspec.open(path)
    assert file.types() == model.types and {*model.types.values()} == {"q4_0", "q8_0"}
    read = sum(TYPES[model.types.get(t.name, "f32")].size(t.shape) for t in model.plan.model.tensors)
    assert weight_bytes(model.plan.model, model.types) == read
    assert read <= model.decoder.read_bytes <= 1.01 * read  # rows are held in whole groups


@pytest.mark.parametrize("model", READ, ids=str)
def test_what_lies_in_memory_is_read_as_planned(model: dict[str, Any]) -> None:
    plan = compiled(**model)
    open_device("CPU")
    from llmspec.backends.backend import backend
    from llmspec.backends.tensors import tensors_from_numpy
    from llmspec.model.decoder import Decoder

    weights = tensors_from_numpy(**{t.name: np.zeros(t.shape, np.float32) for t in plan.tensors})
    assert Decoder(plan, backend("CPU"), weights, start=1).read_bytes == int(weight_bytes(plan, {}))


@pytest.mark.usefixtures("kept")
def test_the_share_is_that_of_the_measured_rate(tmp_path: Path) -> None:
    path = gguf_files.small(tmp_path / "small.gguf", tables()["llama"], QUANTISED)
    before = explained_file(path)
    assert before is not None and before.decoding is not None and before.decoding.most is None
    assert "--time says" in before.decoding.sentence
    plan, types = GGUFFile(path).plan(), GGUFFile(path).types()
    machine.RATE.keep_highest(machine.machine_key("CPU"), 1e9)
    opened = SimpleNamespace(plan=plan, types=types)
    read = weight_bytes(plan.model, types)
    assert speed_of(opened, 100, 200 * read / 1e9) == " (50% of the memory's rate)"
    assert speed_of(opened, 100, 400 * read / 1e9) == " (25% of the memory's rate)"
    assert speed_of(opened, decoding.ENOUGH - 1, 1e-9)  # too few to be kept
    after = explained_file(path)
    assert after is not None and after.decoding is not None
    assert after.decoding.measured == pytest.approx(0.5e9 / read)  # the faster one
    assert re.search(r"at the memory's 1\.0 GB/s .* 50% of it", after.decoding.sentence)
    other = decoding.speed(plan.model, "CPU")
    assert other is not None and other.measured is None and other.most is not None  # of the same network in float32


@pytest.mark.usefixtures("kept")
def test_a_rate_is_measured_and_the_highest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(0.03, 0.02, 0.04), (0.01, 0.02, 0.02), (0.04, 0.04, 0.05)])
    monkeypatch.setattr(machine, "product_times", lambda *_, **__: next(times))
    size = 4.0 * math.prod(machine.VECTOR)
    assert [machine.memory_rate("CPU") for _ in range(3)] == [size / 0.03, size / 0.02, size / 0.04]  # the usual ones
    assert machine.RATE.number(machine.machine_key("CPU")) == size / 0.01
