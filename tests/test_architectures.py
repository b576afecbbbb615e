"""The shipped specs of published architectures: their counts are the published ones, and each works at tiny size."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
import reference
import tiny
from families import Record, family_of, tell
from networks import EPS, memory
from published import ARCHITECTURES, CONTEXT, ROWS, SOURCE, STEPS, WITH_DATA, small
from tinygrad.helpers import Context

from llmspec import api
from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler import compile_spec, walk
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Pair, blank
from llmspec.formats.hf.writing import config_of
from llmspec.model.decoder import Decoder
from llmspec.model.mask_check import graph_check
from llmspec.model.transformer import Transformer, block_context
from llmspec.model.weights import draw
from llmspec.spec import load_spec
from llmspec.training.trainer import Trainer


@pytest.fixture(autouse=True)
def _graphs_are_proved() -> Iterator[None]:
    """By tinygrad, after every rewriting."""
    with Context(SPEC=1):
        yield


PUBLISHED: dict[str, int] = {
    "bert-base": 110_106_428,
    "gemma2-2b": 2_614_341_888,
    "gemma3-1b": 999_885_952,
    "llama3.1-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "modernbert-base": 149_655_232,
    "olmo2-7b": 7_298_617_344,
    "phi-2": 2_779_683_840,
    "pythia-160m": 162_322_944,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen2-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "qwen3-30b-a3b": 30_532_122_624,
    "roberta-base": 124_697_433,
    "smollm2-135m": 134_515_008,
    "stablelm-2-1.6b": 1_644_515_328,
    "starcoder2-3b": 3_030_371_328,
    "t5-small": 60_506_624,
    "t5-v1.1-small": 76_961_152,
}
"""Parameters as the checkpoints on huggingface.co have them, tied matrices once."""
ROUNDED = {"palm-540b": (540.35e9, 0.01e9), "transformer-base": (65e6, 2e6), "glm4.5-air": (106e9, 1e9)}
"""Parameters as a paper's table has them, and its last digit; no checkpoint holds just these. The original
Transformer's vocabulary is given as about 37,000, and a thousand words more or less are half a million parameters."""
ACTIVE = {
    "mixtral-8x7b": (12.9e9, 0.05e9, True),
    "qwen1.5-moe-a2.7b": (2.7e9, 0.05e9, True),
    "qwen3-30b-a3b": (3.3e9, 0.1e9, True),
    "glm4.5-air": (12e9, 0.5e9, False),
}
"""Parameters that a token uses, as the models' authors round them, the last digit's room, and whether the figure fits
with the embedding and the head or without."""


SLOWER = {"t5-small": 1.0}
"""How far a loss falls at least where that is less: logits of scaled states move less."""


@functools.cache
def published(name: str) -> ModelPlan:
    """The model of an architecture at its own size."""
    return compile_spec(load_spec(name, ["memory_limit=8 TiB", "device=CPU"]).spec).model


def test_every_architecture_has_a_published_count() -> None:
    assert {*PUBLISHED, *ROUNDED} >= {*ARCHITECTURES}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameters_are_those_published(name: str, record_property: Record) -> None:
    model = published(name)
    made = model.parameters
    exact, digit = ROUNDED.get(name, (PUBLISHED.get(name, 0), 0.5))
    assert abs(made - exact) <= digit
    tell(record_property, family_of(model, name), spec=name)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_those_published(name: str) -> None:
    model = compile_spec(load_spec(name, ["memory_limit=8 TiB"]).spec).model
    published, digit, whole = ACTIVE[name]
    tables = sum(t.count for t in model.tensors if t.role in ("embedding", "head"))
    assert walk.active_parameters(model) - (0 if whole else tables) == pytest.approx(published, abs=digit)


def test_what_only_training_asks_for_keeps_no_model_from_its_family() -> None:
    """GLM's spec balances its experts by another weight than a config.json can say."""
    assert config_of(published("glm4.5-air"), only="glm4_moe").architecture == "Glm4MoeForCausalLM"


# -- at tiny size ----------------------------------------------------------------------------------------------------


@functools.cache
def text() -> np.ndarray:
    """Bytes of this repository's own prose, as ids of the byte tokenizer."""
    words = (tiny.ROOT / "docs" / "architecture.md").read_bytes()
    return np.frombuffer(words, np.uint8).astype(np.int32) + 8


def batch(plan: Plan, step: int) -> dict[str, np.ndarray]:
    """Lines of the text as the phase of a plan asks them; before a decoder's lines an encoder reads what stands before
    them, of which the first row has less."""
    model, phase = plan.model, plan.phases[0]
    starts = np.random.default_rng(step).integers(0, len(text()) - CONTEXT - 1, ROWS)
    made = blank(ROWS, CONTEXT, 0, None if model.encoder is None else Pair(SOURCE, 0))
    made.tokens[:], made.targets[:] = (np.stack([text()[s + n : s + n + CONTEXT] for s in starts]) for n in (0, 1))
    made.weights[:], made.filled[:] = 1, CONTEXT
    if made.encoder_tokens is not None and made.encoder_filled is not None:
        made.encoder_tokens[:] = [text()[max(0, s - SOURCE) : max(0, s - SOURCE) + SOURCE] for s in starts]
        made.encoder_filled[:] = [5, *[SOURCE] * (ROWS - 1)]
    return BatchInputs(model, phase.phase, plan.tokenizer.meanings(), (plan.seed,))(made, step)


@pytest.mark.parametrize("name", [*ARCHITECTURES, *WITH_DATA])
def test_each_trains_decodes_and_is_explained(name: str, record_property: Record) -> None:
    plan = small(name)
    model, phase = plan.model, plan.phases[0]
    trainer = Trainer(plan, phase, backend("CPU"), lambda t: draw(t, plan.seed))
    losses = []
    for step in range(STEPS):
        read = batch(plan, step)
        taken = trainer.step([read], phase.phase.optimizer.scalars(1.0, step + 1), step)
        losses.append(taken.sums["loss"])
    assert losses[0] == pytest.approx(np.log(model.vocab), rel=0.15)
    assert np.mean(losses[-4:]) < losses[0] - SLOWER.get(name, 1.5), losses
    weights = trainer.weight_arrays()
    assert graph_check(plan).holds
    check_logits(model, weights, batch(plan, 99))
    assert api.explained_spec(api.Known(plan)).parameters == model.parameters
    own = {"spec": name} if name in WITH_DATA else {}  # whose counts test_shipped.py has
    tell(
        record_property,
        family_of(published(name), name),
        **own,
        train="yes",
        decode="yes" if model.generates else "one pass",
    )


def check_logits(model: ModelPlan, weights: dict[str, np.ndarray], read: dict[str, np.ndarray]) -> None:
    """Logits are the formulas' in float64: of the whole text, or decoded token by token with the cache."""
    tokens, low, tensors = read["tokens"], backend("CPU"), tensors_from_numpy(**weights)
    wide, source = reference.double(weights), read.get("encoder_tokens")
    pair = source is not None
    exact = (
        reference.pair_logits(model, wide, tokens[0], source[0, :5])
        if pair
        else reference.row_logits(model, wide, tokens[0])
    )
    if model.generates:
        decoder = Decoder(model, low, tensors, int(tokens[0, 0]) if pair else None)
        prompt, begin = (source[0, :5], 0) if pair else (tokens[0, :5], 4)
        cache, first = decoder.prefill([prompt.tolist()])
        rest = tokens[0, begin + 1 : None if pair else -1]
        made = [first[0], *(decoder.step(cache, [int(token)])[0] for token in rest)]
    else:
        network, inputs = Transformer(model), tensors_from_numpy(**read)
        tables = tensors_from_numpy(**network.tables())
        whole = network.logits(low.ops(low.inputs), {**tensors, **tables}, inputs, block_context(inputs))
        made, begin = [*memory(whole.contiguous().realize())[0]], 0
    assert len(made) >= CONTEXT - 5
    for position, logits in enumerate(made, start=begin):
        assert np.linalg.norm(logits - exact[position]) <= 400 * EPS * np.linalg.norm(exact[position]), position
