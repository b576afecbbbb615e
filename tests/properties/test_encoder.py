"""Encoder–decoders: forward, gradients and decoding against float64, with texts of different lengths and padding.

Shape letters: B rows, T tokens of the decoder, S of the encoder, V vocabulary.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import networks
import numpy as np
import pytest
import reference
import reference_experts
from encoders import MODELS as EVERYWHERE
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import VOCAB, drawn_tokens, drawn_weights, without_unrolling
from tinygrad import Tensor

from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy, to_numpy
from llmspec.compiler import masks
from llmspec.compiler.checks import plan_checks
from llmspec.compiler.masks import encoder_inputs, range_inputs
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.compiler.plan_settings import model_settings
from llmspec.compiler.sound import model_contradictions
from llmspec.core.problems import SpecError, dotted
from llmspec.model import mask_check
from llmspec.model.completeness import assert_complete
from llmspec.model.decoder import Decoder
from llmspec.model.transformer import Transformer, block_context
from llmspec.spec.schema import ModelSpec

ROWS, TOKENS, SOURCE, START = 3, 7, 11, 5
GROWING = {"kind": "rope", "scaling": {"kind": "dynamic", "factor": 2.0, "original_context": 4}}
EXPERTS = {
    "kind": "mixture_of_experts",
    "experts": 3,
    "top_k": 2,
    "expert": {"kind": "relu", "d_ff": 12},
    "balance": 0.3,
}
MODELS: dict[str, dict[str, Any]] = {
    **EVERYWHERE,
    # What padding of the encoder must not count in: the length that angles follow, and how evenly experts are chosen.
    "growing": {"encoder": {"layers": 1, "position": GROWING, "mlp": EXPERTS}, "position": {"kind": "learned"}},
}


@functools.cache
def model_of(name: str) -> ModelPlan:
    return networks.model_of(MODELS[name])


def arrays_of(model: ModelPlan, tokens: np.ndarray, source: np.ndarray, filled: list[int]) -> dict[str, np.ndarray]:
    ranges = range_inputs(model, False, tokens.shape[1])
    return {
        "tokens": tokens,
        "encoder_tokens": source,
        **ranges,
        **encoder_inputs(model, filled, source.shape[1], tokens.shape[1]),
    }


def logits(model: ModelPlan, weights: Any, arrays: Any, plain: bool = False) -> np.ndarray:
    low, network = backend("CPU", plain), Transformer(model)
    inputs = {**tensors_from_numpy(**arrays), **low.inputs}
    tensors = {**tensors_from_numpy(**weights), **tensors_from_numpy(**network.tables())}
    return to_numpy(network.logits(low.ops(inputs), tensors, inputs, block_context(inputs)).realize())


def cases(name: str) -> tuple[ModelPlan, Any, np.ndarray, np.ndarray, list[int]]:
    model = model_of(name)
    return model, drawn_weights(model, 3), drawn_tokens(1, ROWS, TOKENS), drawn_tokens(2, ROWS, SOURCE), [11, 1, 6]


NIGHTLY = pytest.mark.nightly


@pytest.mark.parametrize(
    ("name", "plain"),
    [(name, False) for name in MODELS]
    + [("apart", True)]
    + [pytest.param(name, True, marks=NIGHTLY) for name in MODELS if name != "apart"],
)
def test_logits_are_the_formulas(name: str, plain: bool) -> None:
    model, weights, tokens, source, filled = cases(name)
    run = without_unrolling(logits) if plain else logits
    found = run(model, weights, arrays_of(model, tokens, source, filled), plain)
    wide = reference.double(weights)
    for row in range(ROWS):
        wanted = reference.pair_logits(model, wide, tokens[row], source[row, : filled[row]])
        np.testing.assert_allclose(found[row], wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", MODELS)
def test_the_plan_says_what_the_forward_pass_reads(name: str) -> None:
    model = model_of(name)
    assert_complete(Transformer(model))
    assert not list(model_contradictions(model))
    again = ModelSpec.model_validate_json(json.dumps(model_settings(model.model_dump(mode="json", by_alias=True))))
    assert networks.model_of(json.loads(again.model_dump_json(by_alias=True))) == model


def loss_of(
    model: ModelPlan, weights: Any, arrays: Any, pull: np.ndarray, low: Any, real: Any
) -> dict[str, np.ndarray]:
    network = Transformer(model)
    inputs = {**tensors_from_numpy(**arrays, pull=pull.astype(real)), **low.inputs}
    held = tensors_from_numpy(**{n: v.astype(real) for n, v in weights.items()})
    tables = tensors_from_numpy(**{n: v.astype(real) for n, v in network.tables().items()})
    out = network.logits(low.ops(inputs), {**held, **tables}, inputs, block_context(inputs))
    made = [g.contiguous() for g in (out * inputs["pull"]).sum().gradient(*held.values())]
    Tensor.realize(*made)  # at once: one after another, each would compute the whole pass again
    return {n: to_numpy(g) for n, g in zip(held, made, strict=True)}


@pytest.mark.parametrize(
    "name", ["apart", *(pytest.param(name, marks=NIGHTLY) for name in ("plain", "kinds", "sandwich", "parallel"))]
)
def test_gradients_are_those_of_float64(name: str) -> None:
    model, weights, tokens, source, filled = cases(name)
    arrays = arrays_of(model, tokens, source, filled)
    pull = np.random.default_rng(7).standard_normal((ROWS, TOKENS, VOCAB))
    exact = without_unrolling(loss_of)(model, weights, arrays, pull, backend("CPU", True), np.float64)
    found = loss_of(model, weights, arrays, pull, backend("CPU"), np.float32)
    # That float64 itself is right is seen from how the formula changes along each tensor's own direction.
    wide = reference.double(weights)
    least = 1e-6 * max(np.abs(g).max() for g in exact.values())  # a bias of keys has a gradient of 0
    for n in weights:
        scale = np.abs(exact[n]).max()
        np.testing.assert_allclose(found[n], exact[n], rtol=0, atol=1e-4 * scale + least, err_msg=n)
    whole = lambda w: sum(
        float((reference.pair_logits(model, w, tokens[r], source[r, : filled[r]]) * pull[r]).sum()) for r in range(ROWS)
    )
    rng, step = np.random.default_rng(8), 1e-6
    for n in [n for n in weights if "cross_attention" in n or n.startswith("encoder.layers.0.") or "embed" in n]:
        direction = rng.standard_normal(wide[n].shape)
        ahead, behind = ({**wide, n: wide[n] + s * step * direction} for s in (1, -1))
        slope = (whole(ahead) - whole(behind)) / (2 * step)
        assert slope == pytest.approx(float((exact[n] * direction).sum()), rel=1e-5, abs=1e-6), n


@pytest.mark.parametrize("plain", [False, True])
def test_padding_of_an_encoder_has_no_share_in_the_loss_that_balances_its_experts(plain: bool) -> None:
    model, weights, tokens, source, filled = cases("growing")
    low, network = backend("CPU", plain), Transformer(model)
    inputs = {**tensors_from_numpy(**arrays_of(model, tokens, source, filled)), **low.inputs}
    tensors = {**tensors_from_numpy(**weights), **tensors_from_numpy(**network.tables())}
    ops = low.ops(inputs)
    network.logits(ops, tensors, inputs, block_context(inputs))
    reference_experts.ROUTED.clear()
    for row in range(ROWS):  # each text without what stands behind it
        reference.pair_logits(model, reference.double(weights), tokens[row], source[row, : filled[row]])
    made = float(to_numpy(ops.losses["balance"].contiguous().realize()))
    assert made == pytest.approx(reference_experts.balance(), rel=1e-5)


# -- decoding ------------------------------------------------------------------------------------------------------
def decoder_of(name: str, plain: bool = False) -> tuple[Decoder, Any]:
    model = model_of(name)
    weights = drawn_weights(model, 3)
    return Decoder(model, backend("CPU", plain), tensors_from_numpy(**weights), START), weights


@functools.cache
def decoders(name: str) -> tuple[Decoder, Any]:
    return decoder_of(name)


def uncached(model: ModelPlan, weights: Any, prompt: list[int], said: list[int]) -> np.ndarray:
    """Logits (V,) after what was said to a prompt, by the formulas."""
    return reference.pair_logits(model, reference.double(weights), np.array([START, *said]), np.array(prompt))[-1]


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["plain", "apart", "kinds", "post", "parallel_shared"]),
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=11), min_size=1, max_size=4),
    steps=st.integers(0, 4),
    seed=st.integers(0, 99),
)
def test_cached_decoding_is_the_whole_pass(name: str, prompts: list[list[int]], steps: int, seed: int) -> None:
    (decoder, weights), model = decoders(name), model_of(name)
    cache, out = decoder.prefill(prompts, decoder.cache(4))
    said: list[list[int]] = [[] for _ in prompts]
    rng = np.random.default_rng(seed)
    for step in range(steps + 1):
        for row, prompt in enumerate(prompts):
            wanted = uncached(model, weights, prompt, said[row])
            np.testing.assert_allclose(out[row], wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())
        if step == steps:
            break
        active = [row < len(prompts) for row in range(4)]
        tokens = rng.integers(0, VOCAB, 4).tolist()
        out = decoder.step(cache, tokens, active)
        for row in range(len(prompts)):
            said[row].append(tokens[row])
    parents = rng.integers(0, len(prompts), 4).tolist()
    cache.reorder(parents)
    assert cache.sources == [prompts[p] for p in parents]
    if len(said[0]) + 1 < cache.places:
        out = decoder.step(cache, [1, 2, 3, 4])
        for row, parent in enumerate(parents):
            wanted = uncached(model, weights, prompts[parent], [*said[parent], row + 1])
            np.testing.assert_allclose(out[row], wanted, rtol=0, atol=3e-5 * np.abs(wanted).max())


def test_a_row_has_the_bits_that_it_has_alone() -> None:
    decoder, _ = decoders("plain")
    prompts = [drawn_tokens(i, n).tolist() for i, n in enumerate((3, 9, 12, 5))]
    cache, together = decoder.prefill(prompts)
    after = decoder.step(cache, [1, 2, 3, 4])
    for row, prompt in enumerate(prompts):
        alone, out = decoder.prefill([prompt], decoder.cache(4), [row])
        assert np.array_equal(out[0], together[row])
        stepped = decoder.step(alone, [row + 1] * 4, [r == row for r in range(4)])
        assert np.array_equal(stepped[row], after[row])


def test_a_row_without_a_prompt_is_refused() -> None:
    decoder, _ = decoders("plain")
    cache, _ = decoder.prefill([[1, 2]], decoder.cache(2))
    with pytest.raises(ValueError, match="no prompt was read"):
        decoder.step(cache, [1, 1])
    with pytest.raises(ValueError, match="1 to 12 tokens"):
        decoder.prefill([[1] * 13], cache, [0])
    with pytest.raises(ValueError, match="begins with"):
        Decoder(model_of("plain"), backend("CPU"), {})


# -- who sees whom -------------------------------------------------------------------------------------------------
@functools.cache
def plan_of(name: str) -> Plan:
    return networks.plan_of(MODELS[name])


@pytest.mark.parametrize("name", ["apart", "kinds"])
def test_the_built_graph_looks_where_masks_allow(name: str) -> None:
    found = mask_check.graph_check(plan_of(name))
    assert found.holds, found.evidence
    assert "encoder: " in found.evidence and "cross-attention: " in found.evidence


def test_padding_that_is_seen_and_an_encoder_that_is_causal_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, right = plan_of("plain"), masks.cross_ranges
    with monkeypatch.context() as m:
        m.setattr(masks, "cross_ranges", lambda filled, tokens: right([n + 1 for n in filled], tokens))
        found = mask_check.graph_check(plan)
        assert found.holds is False and found.path == ("model", "cross_attention"), found.evidence
        assert any(check.holds is False for check in plan_checks(plan))
    with monkeypatch.context() as m:
        m.setattr(masks, "cross_ranges", lambda filled, tokens: right([n - 1 for n in filled], tokens))
        assert any(check.holds is False for check in plan_checks(plan))
    with monkeypatch.context() as m:
        m.setattr(masks, "cross_ranges", lambda filled, tokens: right([0 for n in filled], tokens))
        found = mask_check.graph_check(plan)
        assert found.holds is False and "does not change" in found.evidence
    with monkeypatch.context() as m:
        causal = masks.Relation()
        ranges = masks.Relation.ranges
        m.setattr(masks.Relation, "ranges", lambda self, *given: ranges(causal, *given))
        found = mask_check.graph_check(plan)
        assert found.holds is False and found.path == ("model", "encoder"), found.evidence
    assert all(check.holds is not False for check in plan_checks(plan))


# -- specs ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "path", "said"),
    [
        ({"cross_attention": {}}, "model.cross_attention", "no `encoder`"),
        ({"encoder": {"mask": {"kind": "prefix"}}}, "model.encoder.mask", "all that it reads is given"),
        ({"encoder": {}, "mask": {"kind": "prefix"}}, "model.mask", "prompt goes to the encoder"),
        ({"encoder": {"attention": {"heads": 3}}}, "model.encoder.attention.heads", "do not divide"),
        ({"encoder": {"blocks": {"a": {}}}}, "model.encoder.blocks", "no `pattern:`"),
        ({"encoder": {"decoder_start": "pad"}}, "model.encoder.decoder_start", "special token for `pad`"),
        ({"encoder": {}, "cross_attention": {"heads": 5}}, "model.cross_attention.heads", "do not divide"),
    ],
)
def test_what_cannot_be_meant_is_refused(model: dict[str, Any], path: str, said: str) -> None:
    with pytest.raises(SpecError) as error:
        networks.plan_of(model)
    assert any(dotted(p.path) == path and said in p.message for p in error.value.problems), error.value


def test_documents_cannot_share_a_row() -> None:
    with pytest.raises(SpecError, match="cut in two"):
        networks.plan_of({"encoder": {}}, document_mask=True)
