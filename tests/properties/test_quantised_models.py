"""Models whose weights stay quantised: what they give is what their dequantised weights give, but for the rounding of
activations to 8 bits."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import reference

from llmspec.compiler import compile_spec
from llmspec.core.problems import LlmspecError
from llmspec.core.quantised import Quantised, quantise
from llmspec.model.device import open_device
from llmspec.spec.schema import Spec

open_device("CPU")

from tinygrad import Tensor  # noqa: E402  (the compiler comes first)

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.plain.backend import Backend  # noqa: E402
from llmspec.compiler.linear_layers import readable  # noqa: E402
from llmspec.decoding import language_model  # noqa: E402
from llmspec.decoding.language_model import LanguageModel, open_model  # noqa: E402
from llmspec.decoding.quantising import quantised  # noqa: E402
from llmspec.model.weights import drawn  # noqa: E402
from llmspec.parts.ops import Linear, WeightLayout  # noqa: E402

TYPES = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k")
SPEC = {
    "name": "small",
    "device": "CPU",
    "model": {
        "context": 48,
        "d_model": 256,
        "layers": 2,
        "position": {"kind": "rope"},
        "attention": {"heads": 4, "kv_heads": 2, "bias": True},
        "mlp": {"kind": "swiglu", "d_ff": 256},
    },
    "tokenizer": {"kind": "byte"},
    "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
    "phases": {"p": {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "4 steps"}},
}


@functools.cache
def plan(tied: bool = True) -> Any:
    model = {**SPEC["model"], "heads": {"lm": {"kind": "lm", "tied": tied}}}
    return compile_spec(Spec.model_validate_json(json.dumps({**SPEC, "model": model})))


def weights(kinds: tuple[str, ...], tied: bool = True) -> dict[str, Any]:
    """Drawn weights, the matrices in turn of one type after another; '' leaves one as it is."""
    made, turn = plan(tied).model, 0
    found = drawn(made, 5)
    for name in sorted(readable(made)):
        kind = kinds[turn % len(kinds)]
        found[name], turn = quantise(kind, found[name] * 4) if kind else found[name] * 4, turn + 1
    return found


def floats(given: dict[str, Any]) -> dict[str, Any]:
    return {n: w.dequantised() if isinstance(w, Quantised) else w for n, w in given.items()}


def opened(given: dict[str, Any], tied: bool = True) -> LanguageModel:
    return LanguageModel(plan(tied), plan(tied).tokenizer.train([]), given, "p", chat=False)


MIXED = ("q4_k", "", "q6_k", "q8_0", "")


@pytest.mark.parametrize(
    ("kinds", "tied"), [*(((name,), True) for name in TYPES), (MIXED, True), (MIXED, False)], ids=str
)
def test_logits_are_those_of_the_dequantised_weights(kinds: tuple[str, ...], tied: bool) -> None:
    given = weights(kinds, tied)
    model = opened(given, tied)
    assert set(model._layouts) == {n for n, w in given.items() if isinstance(w, Quantised)}
    assert all(model._weights[n].dtype.name == "int" for n in model._layouts)
    ids = np.random.default_rng(1).integers(0, 256, (2, 20))
    made, exact = model.logits(ids), reference.logits(plan(tied).model, reference.double(floats(given)), ids)
    spread = exact.std()
    assert spread > 0.3 and np.sqrt(np.mean((made - exact) ** 2)) < 0.04 * spread
    for name, kept in model.weights().items():
        assert (kept == floats(given)[name]).all(), name


HALVES = ("f16", "bf16")


def test_weights_of_16_bits_give_the_bits_of_the_same_numbers_in_float32() -> None:
    """Logits of few rows, of a prompt's and of more; tokens that are read at once, and drawn one by one."""
    given = weights(HALVES)
    half, plain = opened(given), opened(floats(given))
    assert set(half.types.values()) == set(HALVES) and set(half.types) == readable(plan().model) and not plain.types
    for shape in ((1, 3), (2, 20), (7, 48)):
        ids = np.random.default_rng(shape[1]).integers(0, 256, shape)
        assert half.logits(ids).tobytes() == plain.logits(ids).tobytes()
    prompts = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (5, 17, 1)]
    made = []
    for decoder in (half.decoder, plain.decoder):
        cache, first = decoder.prefill(prompts)
        steps = [decoder.step(cache, [(3 * i + r) % 256 for r in range(3)]) for i in range(3)]
        made.append(np.array([first, *steps]).tobytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("kind", ["q4_1", "bf16", pytest.param("q6_k", marks=pytest.mark.nightly)])
def test_a_row_decodes_alone_as_in_company_and_reads_as_it_decodes(kind: str) -> None:
    """Bit for bit; a prompt read at once gives what its tokens give one by one."""
    decoder = opened(weights((kind,))).decoder
    prompts = [np.random.default_rng(n).integers(0, 256, n).tolist() for n in (5, 17, 1, 30)]
    cache, first = decoder.prefill(prompts)
    steps = [decoder.step(cache, [(3 * i + r) % 256 for r in range(4)]) for i in range(3)]
    for row, prompt in enumerate(prompts):
        cache, own = decoder.prefill([prompt])
        alone = [own[0], *(decoder.step(cache, [(3 * i + row) % 256])[0] for i in range(3))]
        assert np.array(alone).tobytes() == np.array([first[row], *(s[row] for s in steps)]).tobytes(), row


def test_plain_operations_read_the_same_weights_as_float32() -> None:
    given = weights(("q4_0", "q8_0"))
    held, layouts = backend("CPU", plain=True).hold(given, readable(plan().model))
    assert not layouts and all((held[n].numpy() == w).all() for n, w in floats(given).items())


@pytest.mark.parametrize("tied", [True, False])
def test_where_weights_are_halved_logits_are_those_of_the_halves(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantised matrices lie in float16, and nothing else does; what is computed with them is float32."""
    given = weights(MIXED, tied)
    monkeypatch.setattr(language_model, "backend", lambda *_: Backend("plain", halves=True))
    model = opened(given, tied)
    halved = {n for n, w in given.items() if isinstance(w, Quantised)}
    assert set(model.types.items()) == {(n, "f16") for n in halved}
    assert {n for n, w in model._weights.items() if w.dtype.name == "half"} == halved
    stored = {n: w.astype(np.float16).astype(np.float32) if n in halved else w for n, w in floats(given).items()}
    assert any((stored[n] != w).any() for n, w in floats(given).items()), "halving has to change something"
    ids = np.random.default_rng(1).integers(0, 256, (2, 20))
    exact = reference.logits(plan(tied).model, reference.double(stored), ids)
    assert np.allclose(model.logits(ids), exact, rtol=1e-4, atol=1e-5)
    assert all((kept == stored[name]).all() for name, kept in model.weights().items())


def test_a_number_that_is_too_large_for_half_precision_leaves_its_matrix_in_float32() -> None:
    given = {"w": quantise("q8_0", np.full((3, 32), 1e6, np.float32)), "v": quantise("q8_0", np.ones((3, 32), "f4"))}
    held, layouts = Backend("plain", halves=True).hold(given, frozenset(given))
    assert layouts == {"v": WeightLayout("f16", 3, 32)} and held["w"].dtype.name == "float"


def test_what_only_linear_layers_read_may_stay_quantised() -> None:
    """A table that others read becomes float32; a stack of matrices stays as it is."""
    arrays = {
        "stack": quantise("q8_0", np.full((2, 3, 32), 127, np.float32)),
        "half": quantise("f16", np.full((3, 32), 127, np.float32)),
        "other": quantise("q8_0", np.full((3, 32), 127, np.float32)),
        "matrix": quantise("q8_0", np.full((3, 32), 127, np.float32)),
    }
    held, layouts = backend("CPU").hold(arrays, frozenset({"stack", "half", "matrix"}))
    assert layouts.pop("stack") == WeightLayout("q8_0", 3, 32, 2)
    assert layouts == {"matrix": WeightLayout("q8_0", 3, 32), "half": WeightLayout("f16", 3, 32)}
    assert (
        backend("CPU").numbers(held["stack"], WeightLayout("q8_0", 3, 32, 2)) == arrays["stack"].dequantised()
    ).all()
    assert held["other"].numpy().sum() == 96 * 127


def test_training_meets_them_with_an_error() -> None:
    held, layouts = backend("CPU").hold({"w": quantise("q8_0", np.ones((3, 32), np.float32))}, frozenset({"w"}))
    low = backend("CPU")
    x = Tensor(np.ones((2, 32), np.float32))
    y = low.ops(low.inputs).linear(x, Linear(held["w"], None, layouts["w"]))
    with pytest.raises(TypeError, match="stay quantised have no gradient"):
        y.sum().gradient(x)
    with pytest.raises(TypeError, match="packed for another backend"):
        backend("CPU", plain=True).ops({}).linear(x, Linear(held["w"], None, layouts["w"]))


# -- opening -----------------------------------------------------------------------------------------------------------
def saved(tmp_path: Path, given: dict[str, Any]) -> Path:
    return opened(given).save(tmp_path / "model")


def test_opening_quantises_what_is_float32_and_saving_keeps_it(tmp_path: Path) -> None:
    floating = saved(tmp_path, weights(("",)))
    model = open_model(floating, quantize="q8_0")
    assert set(model._layouts) == readable(plan().model) and {t.type for t in model._layouts.values()} == {"q8_0"}
    again = open_model(model.save(tmp_path / "again"))
    assert again._layouts == model._layouts and not again.notices
    ids = np.arange(20)
    assert again.logits(ids).tobytes() == model.logits(ids).tobytes()
    for given in (model.weights(), open_model(tmp_path / "again", quantize="f32").weights()):
        assert all((given[n] == w).all() for n, w in again.weights().items())
    assert not open_model(tmp_path / "again", quantize="f32")._layouts
    halved = open_model(saved(tmp_path / "halved", weights(HALVES)))
    assert set(halved.types.values()) == set(HALVES)
    less = open_model(tmp_path / "halved" / "model", quantize="q8_0")
    assert set(less.types.values()) == {"q8_0"} and not less.notices
    kept = open_model(tmp_path / "again", quantize="q4_0")
    assert kept._layouts == model._layouts and "quantised already" in kept.notices[0]


def test_a_type_that_does_not_exist_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    floating = saved(tmp_path, weights(("",)))
    with pytest.raises(LlmspecError, match="cannot be quantised to `q9`"):
        open_model(floating, quantize="q9")
    narrow = models.plan().model  # width 24
    with pytest.raises(LlmspecError, match="none has rows of a multiple of 32"):
        quantised(narrow, drawn(narrow, 1), "q8_0")
    left = {n: w[:, :32] if n.endswith("down_proj.weight") else w for n, w in weights(("",)).items()}
    made, said = quantised(plan().model, left, "q4_k")
    assert "2 of 15 matrices stay as they are" in said[0] and sum(isinstance(w, Quantised) for w in made.values()) == 13


def test_a_matrix_that_is_not_finite_is_named(tmp_path: Path) -> None:
    given = weights(("",))
    given["embed_tokens.weight"][3, 3] = np.inf
    with pytest.raises(LlmspecError, match=r"embed_tokens.weight holds numbers that are not finite"):
        quantised(plan().model, given, "q8_0")
