"""The shipped specs of published architectures: their counts are the published ones, and each works at tiny size.

A tiny one keeps every part and setting of its spec but the sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import reference
import tiny
import yaml
from networks import EPS, memory

from llmspec import api
from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler import Plan, compile_spec
from llmspec.compiler.masks import range_inputs
from llmspec.compiler.plan import ModelPlan
from llmspec.core import shipped
from llmspec.model.decoder import Decoder
from llmspec.model.mask_check import graph_check
from llmspec.model.transformer import Transformer, block_context
from llmspec.model.weights import draw
from llmspec.parts import objectives
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.spec import load_spec
from llmspec.training.trainer import Trainer

PUBLISHED: dict[str, int] = {
    "bert-base": 110_106_428,
    "gemma2-2b": 2_614_341_888,
    "gemma3-1b": 999_885_952,
    "llama3.1-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "modernbert-base": 149_655_232,
    "olmo2-7b": 7_298_617_344,
    "phi-2": 2_779_683_840,
    "pythia-160m": 162_322_944,
    "qwen2-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "roberta-base": 124_697_433,
    "smollm2-135m": 134_515_008,
}
"""Parameters as the checkpoints on huggingface.co have them, tied matrices once."""
ROUNDED = {"palm-540b": (540.35e9, 0.01e9)}
"""Parameters as a paper's table has them, and its last digit; no checkpoint is public."""
DECODERS = ("gpt2-124m", "gpt3-175b", "llama2-7b")
"""Architectures whose specs have data and phases, too; their counts stand in test_shipped.py."""
ARCHITECTURES = sorted(path.stem for path in (tiny.ROOT / "specs" / shipped.ARCHITECTURES).glob("*.yaml"))
CONTEXT, WIDTH, ROWS, STEPS = 24, 32, 4, 20


class MaskedWords(CrossEntropy):
    """The loss of masked tokens, which a bidirectional network can be trained with."""

    kind: Literal["masked_words"] = "masked_words"  # type: ignore[assignment]
    needs: ClassVar[tuple[str, ...]] = ()


def test_every_architecture_has_a_published_count() -> None:
    assert {*PUBLISHED, *ROUNDED} >= {*ARCHITECTURES}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_those_published(name: str) -> None:
    made = compile_spec(load_spec(name, ["memory_limit=8 TiB"]).spec).model.parameters
    exact, digit = ROUNDED.get(name, (PUBLISHED.get(name, 0), 0.5))
    assert abs(made - exact) <= digit


# -- at tiny size ----------------------------------------------------------------------------------------------------


def sizes(at: str, section: dict[str, Any]) -> Iterator[str]:
    """Overrides that make the parts of a section small; what it does not say is not said here either."""
    attention, window = section.get("attention", {}), section.get("mask", {}).get("window")
    if "heads" in attention:
        yield f"{at}.attention.heads=4"
    if "kv_heads" in attention:
        yield f"{at}.attention.kv_heads={min(2, attention['kv_heads'])}"
    if "head_dim" in attention:
        yield f"{at}.attention.head_dim=12"
    if "d_ff" in section.get("mlp", {}):
        yield f"{at}.mlp.d_ff=48"
    if window:
        yield f"{at}.mask.window=6"
    if "scale" in section.get("heads", {}).get("lm", {}):
        yield f"{at}.heads.lm.scale={WIDTH**-0.5}"
    if "original_context" in (section.get("position", {}).get("scaling") or {}):
        yield f"{at}.position.scaling.original_context=8"


def small(name: str) -> Plan:
    """The plan of an architecture with every block, at tiny size, and a phase that trains it."""
    path = shipped.find(tiny.Path(name))
    assert path is not None
    spec = yaml.safe_load(path.read_text())
    model, pattern = spec["model"], spec["model"].get("pattern", [])
    layers = max([2, *(pattern.index(block) + 1 for block in model.get("blocks", {}))])
    masked = model.get("mask", {}).get("kind") == "bidirectional"
    overrides = [
        "device=CPU",
        f"model.context={CONTEXT}",
        f"model.d_model={WIDTH}",
        f"model.layers={layers}",
        "model.dropout=0",
        "model.vocab=270",
        "tokenizer={kind: byte}",
        *sizes("model", model),
        *(line for block, own in model.get("blocks", {}).items() for line in sizes(f"model.blocks.{block}", own)),
        *(f"phases.{phase}=null" for phase in spec.get("phases", {})),
        "data.sources={text: {kind: inline, documents: [x]}}",
        f"phases.tiny={{kind: pretrain, mixture: {{text: 100%}}, budget: {STEPS} steps, micro_batch_size: {ROWS}, "
        f"optimizer: {{kind: adamw, lr: 1e-2}}, objective: {{kind: {'masked_words' if masked else 'cross_entropy'}}}}}",
    ]
    return compile_spec(load_spec(path, overrides).spec)


@functools.cache
def text() -> np.ndarray:
    """Bytes of this repository's own prose, as ids of the byte tokenizer."""
    words = (tiny.ROOT / "docs" / "architecture.md").read_bytes()
    return np.frombuffer(words, np.uint8).astype(np.int32) + 6


def batch(model: ModelPlan, step: int, masked: bool) -> dict[str, np.ndarray]:
    """Lines of the text; the next token is to be guessed, or every fourth one that is hidden."""
    starts = np.random.default_rng(step).integers(0, len(text()) - CONTEXT - 1, ROWS)
    tokens, targets = (np.stack([text()[s + n : s + n + CONTEXT] for s in starts]) for n in (0, 0 if masked else 1))
    hidden = (np.arange(CONTEXT) % 4 == step % 4) | np.full(tokens.shape, not masked)
    filled = [CONTEXT] * ROWS
    return {
        "tokens": np.where(hidden, 0, tokens).astype(np.int32) if masked else tokens,
        "targets": targets,
        "loss_weights": hidden.astype(np.float32),
        **range_inputs(model, False, CONTEXT, None, filled if masked else None),
    }


@pytest.mark.parametrize("name", [*ARCHITECTURES, *DECODERS])
def test_each_trains_decodes_and_is_explained(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(objectives.TABLE, "masked_words", MaskedWords)
    plan = small(name)
    model, phase = plan.model, plan.phases[0]
    masked = not model.generates
    trainer = Trainer(plan, phase, backend("CPU"), lambda t: draw(t, plan.seed))
    losses = []
    for step in range(STEPS):
        read = batch(model, step, masked)
        taken = trainer.step([read], phase.phase.optimizer.scalars(1.0, step + 1), step)
        losses.append(taken.sums["loss"])
    assert losses[0] == pytest.approx(np.log(model.vocab), rel=0.15)
    assert np.mean(losses[-4:]) < losses[0] - 1.5, losses
    weights = trainer.weight_arrays()
    assert graph_check(plan).holds
    check_logits(model, weights, batch(model, 99, masked))
    assert api.explained_spec(api.Known(plan)).parameters == model.parameters


def check_logits(model: ModelPlan, weights: dict[str, np.ndarray], read: dict[str, np.ndarray]) -> None:
    """Logits are the formulas' in float64: of the whole text, or decoded token by token with the cache."""
    tokens, low, tensors = read["tokens"], backend("CPU"), tensors_from_numpy(**weights)
    exact = reference.row_logits(model, reference.double(weights), tokens[0])
    if model.generates:
        decoder = Decoder(model, low, tensors)
        cache, first = decoder.prefill([tokens[0, :5].tolist()])
        made, begin = [first[0], *(decoder.step(cache, [int(token)])[0] for token in tokens[0, 5:-1])], 4
    else:
        network, inputs = Transformer(model), tensors_from_numpy(**read)
        tables = tensors_from_numpy(**network.tables())
        whole = network.logits(low.ops(low.inputs), {**tensors, **tables}, inputs, block_context(inputs))
        made, begin = [*memory(whole.contiguous().realize())[0]], 0
    assert len(made) >= CONTEXT - 5
    for position, logits in enumerate(made, start=begin):
        assert np.linalg.norm(logits - exact[position]) <= 400 * EPS * np.linalg.norm(exact[position]), position
