"""Stacks of experts whose weights stay as they lie in a file: packed, or of 16 bits a number."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import reference
from test_quantised_models import SPEC, floats

from llmspec.compiler import compile_spec
from llmspec.core.quantised import quantise
from llmspec.model.device import open_device
from llmspec.spec.schema import Spec

open_device("CPU")

from llmspec.backends.backend import backend  # noqa: E402  (the compiler comes first)
from llmspec.compiler.decoding_cost import weight_bytes  # noqa: E402
from llmspec.compiler.linear_layers import may_stay_quantised, readable  # noqa: E402
from llmspec.decoding.language_model import LanguageModel  # noqa: E402
from llmspec.model.weights import drawn  # noqa: E402
from llmspec.parts.ops import WeightLayout  # noqa: E402

EXPERTS = {"q4_1": (3, 2), "q8_0": (3, 3), "q6_k": (2, 2), "f16": (3, 2), "bf16": (3, 2), "mixed": (3, 3)}
"""Types of weights, and how many experts there are, and are taken."""


@functools.cache
def plan(experts: int, top_k: int) -> Any:
    expert = {"kind": "swiglu", "d_ff": 256, "bias": top_k == experts}
    mlp = {"kind": "mixture_of_experts", "experts": experts, "top_k": top_k, "expert": expert}
    return compile_spec(Spec.model_validate_json(json.dumps({**SPEC, "model": {**SPEC["model"], "mlp": mlp}})))


def weights(kind: str) -> dict[str, Any]:
    """Drawn ones, all that may stay quantised of a type; mixed: three types by turns."""
    model, found = plan(*EXPERTS[kind]).model, drawn(plan(*EXPERTS[kind]).model, 5)
    for number, name in enumerate(sorted(readable(model))):
        found[name] = quantise(("q4_0", "f16", "q8_0")[number % 3] if kind == "mixed" else kind, found[name] * 4)
    return found


def opened(kind: str, given: dict[str, Any]) -> LanguageModel:
    made = plan(*EXPERTS[kind])
    return LanguageModel(made, made.tokenizer.train([]), given, "p", chat=False)


def texts(model: LanguageModel, rows: list[int]) -> np.ndarray:
    """What the rows of some prompts give, read and continued."""
    prompts = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (5, 17, 1)]
    cache, first = model.decoder.prefill([prompts[r] for r in rows])
    return np.array([first, *(model.decoder.step(cache, [(3 * i + r) % 256 for r in rows]) for i in range(3))])


SOON = ("mixed",)


@pytest.mark.parametrize("kind", [k if k in SOON else pytest.param(k, marks=pytest.mark.nightly) for k in EXPERTS])
def test_they_stay_as_they_lie_and_a_row_is_the_same_in_any_company(kind: str) -> None:
    given = weights(kind)
    model, network = opened(kind, given), plan(*EXPERTS[kind]).model
    stacks = {t.name: t.shape for t in network.tensors if len(t.shape) == 3}
    assert len(stacks) == 6 and set(model.types) == readable(network)
    assert all(model._layouts[n] == WeightLayout(given[n].type, *s[1:], s[0]) for n, s in stacks.items())
    assert all(model._weights[n].nbytes() == given[n].nbytes for n in stacks), "as many bytes as in the file"
    assert weight_bytes(network, model.types) < 0.7 * weight_bytes(network, {})
    for name, numbers in model.weights().items():
        assert (numbers == floats(given)[name]).all(), name
    together = texts(model, [0, 1, 2])
    for row in (0, 1):
        assert texts(model, [row])[:, 0].tobytes() == together[:, row].tobytes(), row
    if kind in ("f16", "bf16"):
        assert texts(opened(kind, floats(given)), [0, 1, 2]).tobytes() == together.tobytes()


@pytest.mark.parametrize("kind", ["q8_0", "bf16"])
def test_logits_are_those_of_the_dequantised_weights(kind: str) -> None:
    """But for the rounding of activations, which changes no choice where every expert is taken."""
    given, ids = weights(kind), np.random.default_rng(1).integers(0, 256, (2, 20))
    made, plain = opened(kind, given).logits(ids), opened(kind, floats(given)).logits(ids)
    exact = reference.logits(plan(*EXPERTS[kind]).model, reference.double(floats(given)), ids)
    assert kind != "bf16" or made.tobytes() == plain.tobytes()
    assert np.sqrt(np.mean((made - exact) ** 2)) < 0.04 * exact.std()


def test_training_keeps_none_of_them() -> None:
    """Their products have no gradient: what an adapter stands beside keeps its experts in float32."""
    model = plan(3, 2).model
    tensors = tuple(t.model_copy(update={"trainable": False}) for t in model.tensors)
    fixed, stacks = model.model_copy(update={"tensors": tensors}), {t.name for t in tensors if len(t.shape) == 3}
    assert stacks and may_stay_quantised(fixed) == readable(model) - stacks


def test_plain_operations_read_stacks_as_float32() -> None:
    given = weights("f16")
    held, layouts = backend("CPU", plain=True).hold(given, readable(plan(3, 2).model))
    assert not layouts and all((held[n].numpy() == w).all() for n, w in floats(given).items())
