"""Prefix language modelling: loss and gradients of a step are those of transformers' Llama under an explicit mask, of
targets behind the same cuts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from hf_cases import llama, model_in  # noqa: E402
from hypothesis import given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_hf import QUIET, apart, named_gradients  # noqa: E402

import llmspec  # noqa: E402
from llmspec.backends.backend import backend  # noqa: E402
from llmspec.compiler.phase_model import phase_model  # noqa: E402
from llmspec.compiler.plan import PhasePlan  # noqa: E402
from llmspec.core.units import Budget, Share  # noqa: E402
from llmspec.data.inputs import BatchInputs  # noqa: E402
from llmspec.data.layout import blank  # noqa: E402
from llmspec.data.pairs import CutLayout  # noqa: E402
from llmspec.data.tokens import TokenSet  # noqa: E402
from llmspec.parts.masks.prefix import Prefix  # noqa: E402
from llmspec.parts.optimizers.sgd import SGD  # noqa: E402
from llmspec.parts.phases.prefix_lm import PrefixLM  # noqa: E402
from llmspec.parts.tokenizers.special_tokens import SpecialTokens  # noqa: E402
from llmspec.training.trainer import Trainer  # noqa: E402

LOSS, GRADIENTS, ROWS = 1e-5, 1e-4, 3
Changed = Callable[[dict[str, np.ndarray]], None]


def compare(config: Any, number: int, change: Changed = lambda arrays: None) -> None:
    """One step of both; `change` does something wrong to what ours reads."""
    # What tokens of the prefix see of each other matters behind it from the second layer on.
    config.num_hidden_layers = max(2, config.num_hidden_layers)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_in(folder, config, number)
        opened = llmspec.open(folder)
        part = PrefixLM(
            mixture={"a": Share(100.0)},
            budget=Budget(1.0, "steps"),
            micro_batch_size=ROWS,
            optimizer=SGD(lr=1.0),
            max_grad_norm=None,
        )
        own, problems = phase_model(prefixed(opened.plan.model), part)
        assert not problems
        phase = PhasePlan(
            name="p", phase=part, steps=1, exact=False, tokens=None, shares=(), model=own, makes="policy", flops=None
        )
        T = own.context
        text = np.random.default_rng(number).integers(2, config.vocab_size, 5 * T).astype(np.uint16)
        data = TokenSet(text, np.array([0, len(text)], np.int64), np.array([len(text)], np.int64))
        layout, batch = CutLayout(data, T, 1, False, (number,)), blank(ROWS, T, 1)
        layout.gather(batch, np.arange(ROWS), np.arange(ROWS))
        arrays = BatchInputs(own, part, SpecialTokens(ids={"</s>": 1}, eos=1), (number,))(batch, 0)
        change(arrays)
        weights = {n: np.array(w) for n, w in opened.weights().items()}
        taken = Trainer(opened.plan, phase, backend("CPU"), lambda t: weights[t.name])
        loss = taken.step([arrays], part.optimizer.scalars(1.0, 1), 0).sums["loss"]
        found = {n: weights[n] - w for n, w in taken.weight_arrays().items()}

        stream = np.concatenate([[1], text])[: ROWS * T + 1].astype(np.int64)
        cuts, place = layout.cuts(np.arange(ROWS)), np.arange(T)
        ids, after = stream[:-1].reshape(ROWS, T), stream[1:].reshape(ROWS, T)
        labels = np.where(place >= cuts[:, None] - 1, after, -100)
        seen = (place[None] <= place[:, None])[None] | (place < cuts[:, None])[:, None, :]
        mask = torch.zeros(ROWS, 1, T, T).masked_fill(~torch.from_numpy(seen)[:, None], torch.finfo(torch.float32).min)
        logits = model(torch.from_numpy(ids), attention_mask=mask, use_cache=False).logits
        theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels).flatten())
        theirs.backward()
        assert loss == pytest.approx(theirs.item(), rel=LOSS)
        expected = named_gradients(opened, folder, model)
        assert apart({n: g for n, g in found.items() if n in expected}, expected) <= GRADIENTS


def prefixed(model: Any) -> Any:
    """The same model under a prefix mask."""
    blocks = tuple(block.model_copy(update={"mask": Prefix()}) for block in model.decoder.blocks)
    decoder = model.decoder.model_copy(update={"blocks": blocks})
    return model.model_copy(update={"stacks": tuple(decoder if s is model.decoder else s for s in model.stacks)})


@seed(2)
@settings(max_examples=3, **QUIET)
@given(llama(), st.integers(0, 1 << 30))
def test_loss_and_gradients(config: Any, number: int) -> None:
    compare(config, number)


def everything_counts(arrays: dict[str, np.ndarray]) -> None:
    arrays["loss_weights"] = np.ones_like(arrays["loss_weights"])


def one_place_late(arrays: dict[str, np.ndarray]) -> None:
    """The token right behind the cut does not count."""
    first = arrays["loss_weights"].argmax(1)
    arrays["loss_weights"][np.arange(ROWS), first] = 0


def per_row(arrays: dict[str, np.ndarray]) -> None:
    arrays["loss_weights"] = arrays["loss_weights"] / arrays["loss_weights"].sum(1, keepdims=True)


def causal(arrays: dict[str, np.ndarray]) -> None:
    """The prefix sees no later token of itself."""
    for name in arrays:
        if name.startswith("ranges:"):
            T = arrays[name].shape[1]
            arrays[name] = np.broadcast_to(np.stack([np.zeros(T), np.arange(1, T + 1)], -1), (ROWS, T, 2)).astype(
                np.int32
            )


@pytest.mark.parametrize("wrong", [everything_counts, one_place_late, per_row, causal])
def test_what_is_wrong_is_seen(wrong: Changed) -> None:
    @seed(3)
    @settings(max_examples=1, **QUIET)
    @given(llama())
    def check(config: Any) -> None:
        compare(config, 11)
        with pytest.raises(AssertionError):
            compare(config, 11, wrong)

    check()
