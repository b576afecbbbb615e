"""What counts the same in a step's mean, and noise on embeddings: against the formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.backends.backend import backend
from llmspec.compiler import compile_spec
from llmspec.compiler.inputs import step_inputs
from llmspec.core.problems import SpecError
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import blank
from llmspec.data.reduction import by_sample
from llmspec.model.weights import draw
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec
from llmspec.training.noise import embedding_noise
from llmspec.training.trainer import Trainer


@given(seed=st.integers(0, 1 << 20), rows=st.integers(1, 3), length=st.integers(1, 12), passes=st.integers(1, 3))
def test_each_sample_counts_the_same(seed: int, rows: int, length: int, passes: int) -> None:
    dice, batches, arrays = np.random.default_rng(seed), [], []
    for _ in range(passes):
        made = blank(rows, length, 0)
        made.documents[:] = np.cumsum(dice.integers(0, 2, (rows, length)), axis=1)
        made.weights[:] = dice.integers(0, 2, (rows, length))
        batches.append(made)
        arrays.append({"loss_weights": made.weights, "tokens": made.tokens})
    found = by_sample(batches, arrays)
    totals, before, after = [], 0.0, 0.0
    for batch, old, new in zip(batches, arrays, found, strict=True):
        assert new["loss_weights"].dtype == np.float32 and new["tokens"] is old["tokens"]
        assert ((new["loss_weights"] > 0) == (old["loss_weights"] > 0)).all()
        before, after = before + old["loss_weights"].sum(), after + new["loss_weights"].sum()
        for row in range(rows):
            for number in range(length + 1):
                own = new["loss_weights"][row][batch.documents[row] == number]
                if own.sum():
                    totals.append(own.sum())
                    assert len(set(own[own > 0].tolist())) == 1, "tokens of a sample count the same"
    assert after == pytest.approx(before, rel=1e-5)
    assert totals == pytest.approx([before / len(totals)] * len(totals) if totals else [], rel=1e-5)


@given(alpha=st.sampled_from([1.0, 5.0, 15.0]), seed=st.integers(0, 9))
def test_noise_is_even_and_of_the_size_that_its_paper_says(alpha: float, seed: int) -> None:
    shape = (2, 32, 48)
    noise, bound = embedding_noise(alpha, shape, seed, "chat", 3, 0), alpha / np.sqrt(32 * 48)
    assert noise.shape == shape and noise.dtype == np.float32
    assert np.abs(noise).max() <= bound * (1 + 1e-6) and np.abs(noise).max() > 0.99 * bound
    # Of even numbers between -m and m the mean square is m²/3, so that a row's norm is about alpha / √3.
    assert np.linalg.norm(noise, axis=(1, 2)) == pytest.approx(alpha / np.sqrt(3), rel=0.05)
    assert abs(noise.mean()) < 0.03 * bound
    assert (noise == embedding_noise(alpha, shape, seed, "chat", 3, 0)).all()
    for other in ((seed, "chat", 4, 0), (seed, "chat", 3, 1), (seed + 1, "chat", 3, 0), (seed, "more", 3, 0)):
        assert (noise != embedding_noise(alpha, shape, *other)).any()


def plan_of(**phase: Any) -> Any:
    spec = {
        "name": "noisy",
        "device": "CPU",
        "model": {
            "context": 12,
            "d_model": 16,
            "layers": 1,
            "attention": {"heads": 2},
            "mlp": {"d_ff": 24},
            "heads": {"lm": {"kind": "lm", "tied": False}},
        },
        "tokenizer": {"kind": "char", "vocab": 24},
        "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
        "phases": {"p": {"kind": "sft", "mixture": {"a": "100%"}, "budget": "4 steps", "micro_batch_size": 1, **phase}},
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


def test_noise_is_added_to_embeddings_in_training_alone() -> None:
    """Every token of the row is another one, so that its noise can as well stand in its row of the table."""
    plan = plan_of(neftune_noise_alpha=50.0)
    phase = plan.phases[0]
    assert step_inputs(phase.model, phase.phase)["embedding_noise"].shape == (1, 12, 16)
    weights = {t.name: draw(t, 1) for t in phase.model.tensors}
    made = blank(1, 12, 0)
    made.tokens[:], made.targets[:] = np.arange(8, 20), np.arange(9, 21)
    made.filled[:], made.weights[:] = 12, 1
    read = BatchInputs(phase.model, phase.phase, plan.tokenizer.meanings(), (1,))(made, 0)
    noisy = Trainer(plan, phase, backend("CPU"), lambda t: weights[t.name])
    silent = noisy.evaluate(read)["loss"] / 12
    loss = noisy.step([read], phase.phase.optimizer.scalars(1.0, 1), 7).sums["loss"]
    table = weights["embed_tokens.weight"].copy()
    table[made.tokens[0]] += embedding_noise(50.0, (1, 12, 16), plan.seed, "p", 7, 0)[0]
    moved = {**weights, "embed_tokens.weight": table}
    other = Trainer(plan, phase, backend("CPU"), lambda t: moved[t.name])
    assert loss == pytest.approx(other.evaluate(read)["loss"] / 12, rel=1e-5)
    assert abs(loss - silent) > 1e-3


def test_without_the_key_nothing_is_added() -> None:
    phase = plan_of().phases[0]
    assert "embedding_noise" not in step_inputs(phase.model, phase.phase)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("    loss_reduction: sample\n    document_mask: false\n", "which tokens are one sample's"),
        ("    loss_reduction: samples\n", "loss_reduction"),
        ("    neftune_noise_alpha: 0\n", "neftune_noise_alpha"),
    ],
)
def test_mistakes_are_told(lines: str, message: str, tmp_path: Path) -> None:
    text = tiny.TINY.replace("    kind: sft\n", f"    kind: sft\n{lines}")
    with pytest.raises(SpecError) as error:
        load_spec(tiny.write(tmp_path, text))
    assert any(message in str(p) and p.mark for p in error.value.problems)
