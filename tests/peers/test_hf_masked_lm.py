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
from llmspec.data.framed import FramedLayout  # noqa: E402
from llmspec.data.inputs import BatchInputs  # noqa: E402
from llmspec.data.layout import Batch, blank  # noqa: E402
from llmspec.data.tokens import TokenSet  # noqa: E402
from llmspec.parts.objectives.masked_lm import MaskedLM  # noqa: E402
from llmspec.parts.optimizers.sgd import SGD  # noqa: E402
from llmspec.parts.phases.masked_lm import MaskedLM as MaskedPhase  # noqa: E402
from llmspec.parts.tokenizers.special_tokens import SpecialTokens  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

MASK, CLS, SEP, FIRST = 3, 4, 5, 6
SPECIALS = SpecialTokens(
    ids={**{f"[PAD{i}]": i for i in range(3)}, "[MASK]": MASK, "[CLS]": CLS, "[SEP]": SEP}, mask=MASK
)
"""Ids below 3 are one family's or another's padding, whose vector is not trained there."""
LOSS, GRADIENTS = 1e-5, 1e-4


def full_and_short(context: int, vocab: int, number: int) -> Batch:
    """Two rows of plain text: one is full, one has padding behind it."""
    made = blank(2, context, 0)
    made.tokens[:] = np.random.default_rng(number).integers(FIRST, vocab, made.tokens.shape)
    made.filled[:] = context, context // 2
    made.weights[:] = np.arange(context) < made.filled[:, None]
    return made


def stretches(context: int, vocab: int, number: int) -> Batch:
    """Two rows of several texts, each `[CLS] text [SEP]`."""
    lengths = np.array([1, context - 4, context // 3, 2, context])
    ids = np.random.default_rng(number).integers(FIRST, vocab, lengths.sum()).astype(np.uint16)
    data = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]), lengths[:, None])
    layout, made = FramedLayout(data, context, ((CLS,), (SEP,)), True, ("s",)), blank(2, context, 0)
    layout.gather(made, np.arange(2), np.arange(2))
    return made


def compare(config: Any, number: int, objective: MaskedLM, rows: Any = full_and_short) -> None:
    """One step of both on the same masked tokens. Each text has a row of its own there, with padding behind it."""
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
            document_mask=rows is stretches,
        )
        still = opened.plan.model.model_copy(update={"dropout": 0.0})  # theirs drops nothing in `eval`
        own, problems = phase_model(still, part)
        assert not problems
        phase = PhasePlan(
            name="p", phase=part, steps=1, exact=False, tokens=None, shares=(), model=own, makes="filler", flops=None
        )
        made = rows(own.context, config.vocab_size, number)
        inputs = BatchInputs(own, part, SPECIALS, (number,))
        asked, read = inputs.asked(made, 0), inputs(made, 0)
        assert (asked.tokens == MASK).any() and (asked.weights.sum(1) > 0).all()
        weights = {n: np.array(w) for n, w in opened.weights().items()}
        taken = Trainer(opened.plan, phase, backend("CPU"), lambda t: weights[t.name])
        loss = taken.step([read], part.optimizer.scalars(1.0, 1), 0).sums["loss"]
        found = {n: weights[n] - w for n, w in taken.weight_arrays().items()}
        labels = np.where(asked.weights > 0, asked.targets, -100)
        texts = [
            np.flatnonzero((made.documents[row] == n) & (np.arange(own.context) < filled))
            for row, filled in enumerate(made.filled)
            for n in np.unique(made.documents[row, :filled])
        ]
        of = [row for row, filled in enumerate(made.filled) for _ in np.unique(made.documents[row, :filled])]
        given = np.full((3, len(texts), own.context), 0, np.int64)  # tokens, whether they are read, labels
        given[2] = -100
        for i, (row, text) in enumerate(zip(of, texts, strict=True)):
            given[:, i, : len(text)] = asked.tokens[row, text], np.ones(len(text)), labels[row, text]
        tokens, seen, wanted = map(torch.from_numpy, given)
        theirs = model(tokens, attention_mask=seen, labels=wanted).loss
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


@pytest.mark.parametrize("family", ENCODERS)
def test_texts_between_special_tokens_that_share_a_row(family: str) -> None:
    @seed(4)
    @settings(max_examples=1, **QUIET)
    @given(ENCODERS[family](), st.integers(0, 1 << 30))
    def check(config: Any, number: int) -> None:
        compare(config, number, MaskedLM(mlm_probability=0.4), stretches)

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
