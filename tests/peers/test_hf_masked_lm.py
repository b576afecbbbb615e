"""Masked tokens: loss and gradients of a step are those of transformers' BERT, RoBERTa and ModernBERT."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hypothesis import given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_hf import QUIET, apart, named_gradients  # noqa: E402
from test_hf_encoders import ENCODERS, bert, model_in  # noqa: E402

import llmspec  # noqa: E402
from llmspec.backends.backend import backend  # noqa: E402
from llmspec.compiler.phase_model import phase_model  # noqa: E402
from llmspec.compiler.plan import PhasePlan  # noqa: E402
from llmspec.core.units import Budget, Share  # noqa: E402
from llmspec.data.inputs import BatchInputs  # noqa: E402
from llmspec.data.layout import blank  # noqa: E402
from llmspec.parts.objectives import MaskedLM  # noqa: E402
from llmspec.parts.optimizers.sgd import SGD  # noqa: E402
from llmspec.parts.phases.masked_lm import MaskedLM as MaskedPhase  # noqa: E402
from llmspec.parts.tokenizers.special_tokens import SpecialTokens  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

MASK = 3
SPECIALS = SpecialTokens(ids={"[CLS]": 0, "[SEP]": 1, "[PAD]": 2, "[MASK]": MASK}, mask=MASK)
LOSS, GRADIENTS = 1e-5, 1e-4


def compare(config: Any, number: int, objective: MaskedLM) -> None:
    """One step of both on the same masked tokens: one row is full, one has padding behind it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_in(folder, config, number, transformers.AutoModelForMaskedLM)
        opened = llmspec.open(folder)
        part = MaskedPhase(
            mixture={"a": Share(100.0)},
            budget=Budget(1.0, "steps"),
            micro_batch_size=2,
            optimizer=SGD(lr=1.0),
            max_grad_norm=None,
            objective=objective,
        )
        still = opened.plan.model.model_copy(update={"dropout": 0.0})  # theirs drops nothing in `eval`
        own, problems = phase_model(still, part)
        assert not problems
        phase = PhasePlan(
            name="p", phase=part, steps=1, exact=False, tokens=None, shares=(), model=own, makes="filler", flops=None
        )
        made = blank(2, own.context, 0)
        made.tokens[:] = np.random.default_rng(number).integers(4, config.vocab_size, made.tokens.shape)
        made.filled[:] = own.context, own.context // 2
        made.weights[:] = np.arange(own.context) < made.filled[:, None]
        inputs = BatchInputs(own, part, SPECIALS, (number,))
        asked, read = inputs.asked(made, 0), inputs(made, 0)
        assert (asked.tokens == MASK).any() and (asked.weights.sum(1) > 0).all()
        weights = {n: np.array(w) for n, w in opened.weights().items()}
        taken = Trainer(opened.plan, phase, backend("CPU"), lambda t: weights[t.name])
        loss = taken.step([read], part.optimizer.scalars(1.0, 1), 0).sums["loss"]
        found = {n: weights[n] - w for n, w in taken.weight_arrays().items()}
        labels = np.where(asked.weights > 0, asked.targets, -100)
        seen = (np.arange(own.context) < made.filled[:, None]).astype(np.int64)
        given_too = {"attention_mask": torch.from_numpy(seen), "labels": torch.from_numpy(labels).long()}
        theirs = model(torch.from_numpy(asked.tokens).long(), **given_too).loss
        theirs.backward()
        assert loss == pytest.approx(theirs.item(), rel=LOSS)
        expected = named_gradients(opened, folder, model)
        assert apart({n: g for n, g in found.items() if n in expected}, expected) <= GRADIENTS


@pytest.mark.parametrize("family", ENCODERS)
def test_loss_and_gradients(family: str) -> None:
    @seed(2)
    @settings(max_examples=2, **QUIET)
    @given(ENCODERS[family](), st.integers(0, 1 << 30), st.sampled_from([0.15, 0.4]), st.booleans())
    def check(config: Any, number: int, share: float, all_masked: bool) -> None:
        hidden = {"mask_replace_prob": 1.0, "random_replace_prob": 0.0} if all_masked else {}
        compare(config, number, MaskedLM(mlm_probability=share, **hidden))

    check()


class WrongSign(MaskedLM):
    """Less likely is better."""

    def build(self, dims: Any) -> Any:
        right = super().build(dims)
        return lambda *given: {"loss": -right(*given)["loss"]}


class WrongPlaces(MaskedLM):
    """The token after each masked one is asked for."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        return {**made, "places": np.minimum(made["places"] + 1, batch.tokens.shape[1] - 1)}


class AllCount(MaskedLM):
    """Room that no place fills counts, too."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        return {**made, "loss_weights": np.ones_like(made["loss_weights"])}


class PerRow(MaskedLM):
    """Rows count the same, however many places they have."""

    def arrays(self, batch: Any, draw: Any, specials: Any) -> Mapping[str, Any]:
        made = super().arrays(batch, draw, specials)
        w = made["loss_weights"]
        return {**made, "loss_weights": w / w.sum(axis=1, keepdims=True)}


@pytest.mark.parametrize("wrong", [WrongSign, WrongPlaces, AllCount, PerRow])
def test_what_is_wrong_is_seen(wrong: type[MaskedLM]) -> None:
    @seed(3)
    @settings(max_examples=1, **QUIET)
    @given(bert())
    def check(config: Any) -> None:
        with pytest.raises(AssertionError):
            compare(config, 5, wrong(mlm_probability=0.3))

    check()
