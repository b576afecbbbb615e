"""Models of transformers, opened from their folders: logits, cached decoding and gradients are the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hf_cases import FAMILIES, SCALED, model_in  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import llmspec  # noqa: E402
from llmspec.formats.hf.family import families  # noqa: E402

LOGITS, GRADIENTS = 2e-4, 1e-4
WAITING = set() if SCALED else {"gpt_neox", "phi", "olmo2", "stablelm", "gemma2"}
"""Tables of parts that are not here yet."""


def torch_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy(tokens)).logits.numpy()
    return found


def cached(opened: Any, tokens: np.ndarray, first: int) -> np.ndarray:
    """Logits after each token from `first` on, by a prefill and steps: (B, T - first + 1, V)."""
    cache, logits = opened.decoder.prefill([row[:first].tolist() for row in tokens])
    found = [logits]
    found += [opened.decoder.step(cache, tokens[:, i].tolist()) for i in range(first, tokens.shape[1])]
    return np.stack(found, axis=1)


def gradients(opened: Any, tokens: np.ndarray, up: np.ndarray) -> dict[str, np.ndarray]:
    """Of sum(logits · up), by our names, through the operations that train."""
    from tinygrad import Tensor

    from llmspec.backends import owner
    from llmspec.backends.tensors import tensors_from_numpy
    from llmspec.compiler.masks import range_inputs
    from llmspec.model.transformer import block_context

    with owner.turn():
        model = opened.plan.model
        ranges = range_inputs(model, False, tokens.shape[1], filled_B=[tokens.shape[1]] * len(tokens))
        inputs = {**tensors_from_numpy(tokens=tokens, up=up, **ranges), **opened._backend.inputs}
        weights = {n: w.requires_grad_() if hasattr(w, "requires_grad_") else w for n, w in opened._weights.items()}
        ops = opened._backend.ops(inputs)
        logits = opened._model.logits(ops, {**weights, **opened._tables}, inputs, block_context(inputs))
        found = (logits * inputs["up"]).sum().gradient(*weights.values())
        Tensor.realize(*found)
        return {name: g.numpy() for name, g in zip(weights, found, strict=True)}


def their_gradients(opened: Any, folder: Path, model: Any, tokens: np.ndarray, up: np.ndarray) -> dict[str, np.ndarray]:
    """The same of torch, by our names: through the mapping that reads weights."""
    from llmspec.formats.hf.importing import HFFolder
    from llmspec.formats.hf.weights import Files

    (model(torch.from_numpy(tokens)).logits * torch.from_numpy(up)).sum().backward()
    by_name = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    found: dict[str, np.ndarray] = {}
    stored = HFFolder(folder)
    for group in stored.groups(opened.plan.model, Files(folder)):
        split = group.split([by_name[name] for name, _ in group.theirs])
        found.update(zip((n for n, _ in group.ours), split, strict=True))
    return found


def test_every_table_is_compared() -> None:
    assert set(FAMILIES) == set(families())


def compare(config: Any, number: int, lengths: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_in(folder, config, number)
        opened = llmspec.open(folder)
        first, length = sorted((lengths[0], max(lengths)))
        tokens = np.random.default_rng(number).integers(0, config.vocab_size, (2, length)).astype(np.int64)
        logits = torch_logits(model, tokens)
        np.testing.assert_allclose(opened.logits(tokens), logits, rtol=0, atol=LOGITS)
        if "dynamic" not in str(getattr(config, "rope_parameters", "")):  # whose keys hang on the whole length
            np.testing.assert_allclose(cached(opened, tokens, first), logits[:, first - 1 :], rtol=0, atol=LOGITS)
        up = np.random.default_rng(number + 1).normal(size=logits.shape).astype(np.float32)
        ours = gradients(opened, tokens.astype(np.int32), up)
        theirs = their_gradients(opened, folder, model, tokens, up)
        assert ours.keys() == theirs.keys()
        # A key's bias has no gradient: what is found of it is what rounding leaves of larger ones.
        largest = max(np.linalg.norm(wanted) for wanted in theirs.values())
        for tensor, wanted in theirs.items():
            error, norm = np.linalg.norm(ours[tensor] - wanted), np.linalg.norm(wanted)
            assert error <= GRADIENTS * norm + 1e-6 * largest, (tensor, error, norm)


LENGTHS = st.tuples(st.integers(1, 39), st.integers(2, 39))
QUIET: dict[str, Any] = {"deadline": None, "phases": (Phase.generate,), "database": None}
QUIET |= {"suppress_health_check": list(HealthCheck)}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WAITING))
def test_drawn_configs(family: str) -> None:
    @seed(1)
    @settings(max_examples=2, **QUIET)
    @given(FAMILIES[family](), st.integers(0, 1 << 30), LENGTHS)
    def check(config: Any, number: int, lengths: tuple[int, int]) -> None:
        compare(config, number, lengths)

    check()


@pytest.mark.nightly
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WAITING))
def test_many_drawn_configs(family: str) -> None:
    @settings(max_examples=40, **QUIET)
    @given(FAMILIES[family](), st.integers(0, 1 << 30), LENGTHS)
    def check(config: Any, number: int, lengths: tuple[int, int]) -> None:
        compare(config, number, lengths)

    check()
