"""Laws of softmax and of every filter in the table, and of the section that joins their settings."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from strategies_decoding import decodings, frozen, logits, logits_in_context, settings_of

from llmspec.decoding.chain import apply, entropy_bits, log_softmax, probabilities, trace
from llmspec.parts.filters import TABLE, Context
from llmspec.parts.filters.min_p import MinP
from llmspec.parts.filters.penalties import LARGEST_FACTOR, Penalties
from llmspec.parts.filters.temperature import Temperature
from llmspec.parts.filters.top_k import TopK
from llmspec.parts.filters.top_p import ROUNDING, SORTED, TopP
from llmspec.spec.decoding import Decoding
from llmspec.spec.shape import description

pytestmark = pytest.mark.filterwarnings("error")
EPS = np.finfo(np.float64).eps
NOTHING = Context(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
every_filter = pytest.mark.parametrize("name", list(TABLE))
truncating = pytest.mark.parametrize("name", [name for name, part in TABLE.items() if part.truncates])


def kept(values: np.ndarray) -> list[int]:
    return np.flatnonzero(values > -np.inf).tolist()


# Softmax and entropy


@given(logits())
def test_softmax_is_a_distribution_in_the_order_of_the_logits(values: np.ndarray) -> None:
    p = probabilities(values)
    assert np.isfinite(p).all() and (p >= 0).all()
    assert p[~np.isfinite(values)].sum() == 0
    assert math.isclose(p.sum(), 1 if kept(values) else 0, abs_tol=1e-12)
    ranked = np.argsort(values, kind="stable")
    assert (np.diff(p[ranked]) >= 0).all()


@given(logits())
def test_softmax_equals_another_formula(values: np.ndarray) -> None:
    assume(kept(values))
    total = np.logaddexp.reduce(values)
    # The logarithm of the total is rounded at its own size, and the exponential turns that into a relative error.
    tolerance = 4 * EPS * (10 + abs(total) + np.abs(values[kept(values)]).max())
    np.testing.assert_allclose(probabilities(values), np.exp(values - total), rtol=tolerance, atol=1e-300)
    np.testing.assert_allclose(log_softmax(values), values - total, rtol=0, atol=tolerance)


@given(logits(), st.floats(-1e6, 1e6))
def test_softmax_does_not_see_a_shift(values: np.ndarray, shift: float) -> None:
    # Adding the shift rounds each logit at the size of the sum.
    tolerance = 4 * EPS * (10 + abs(shift) + np.abs(values[kept(values)]).max(initial=0))
    np.testing.assert_allclose(probabilities(values + shift), probabilities(values), rtol=tolerance, atol=1e-300)


@given(st.lists(logits(min_size=5, max_size=5), min_size=1, max_size=4))
def test_softmax_of_rows_is_softmax_of_each_row(rows: list[np.ndarray]) -> None:
    p = probabilities(np.stack(rows))
    for row, values in zip(p, rows, strict=True):
        np.testing.assert_array_equal(row, probabilities(values))


def test_softmax_of_a_fully_cut_row_is_zero() -> None:
    values = np.array([[-np.inf, -np.inf], [-np.inf, 3.0]])
    assert probabilities(values).tolist() == [[0, 0], [0, 1]]
    assert log_softmax(values).tolist() == [[-np.inf, -np.inf], [-np.inf, 0]]
    assert entropy_bits(probabilities(values)).tolist() == [0, 0]


@given(logits())
def test_entropy_lies_between_certainty_and_uniform(values: np.ndarray) -> None:
    bits = float(entropy_bits(probabilities(values)))
    assert 0 <= bits <= math.log2(max(1, len(kept(values)))) + 1e-12


@pytest.mark.parametrize("size", [1, 2, 3, 8, 1000])
def test_entropy_of_equals(size: int) -> None:
    assert math.isclose(entropy_bits(probabilities(np.zeros(size))), math.log2(size), abs_tol=1e-12)


# Every filter


@every_filter
def test_the_table_and_the_filter_agree_on_its_name(name: str) -> None:
    assert TABLE[name].kind == name
    assert TABLE[name].__doc__ and all(description(TABLE[name], key) for key in TABLE[name].model_fields)


@every_filter
@given(logits_in_context())
def test_defaults_change_nothing(name: str, given_: tuple[np.ndarray, Context]) -> None:
    idle = TABLE[name]()
    assert not idle.active()
    np.testing.assert_array_equal(idle.apply(*given_), given_[0])


@every_filter
@given(data=st.data())
def test_settings_that_are_not_active_change_nothing(name: str, data: st.DataObject) -> None:
    part, (values, context) = data.draw(settings_of(TABLE[name])), data.draw(logits_in_context())
    if not part.active():
        np.testing.assert_array_equal(part.apply(values, context), values)


@every_filter
@given(data=st.data())
def test_filters_are_pure_and_keep_logits_sound(name: str, data: st.DataObject) -> None:
    part, (values, context) = data.draw(settings_of(TABLE[name])), data.draw(logits_in_context())
    before = values.tobytes()
    out = part.apply(values, context)
    assert values.tobytes() == before
    assert out.shape == values.shape and out.dtype == np.float64
    assert not np.isnan(out).any() and not (out == np.inf).any()
    assert set(kept(out)) <= set(kept(values)), "a cut token came back"
    assert kept(out) or not kept(values), "nothing is left"
    np.testing.assert_array_equal(out, part.apply(values, context))


@every_filter
@given(data=st.data())
def test_filters_survive_print_and_parse(name: str, data: st.DataObject) -> None:
    part = data.draw(settings_of(TABLE[name]))
    assert type(part).model_validate_json(part.model_dump_json()) == part


@truncating
@given(data=st.data())
def test_truncation_leaves_the_rest_and_cuts_from_below_where_it_says_so(name: str, data: st.DataObject) -> None:
    part, (values, context) = data.draw(settings_of(TABLE[name])), data.draw(logits_in_context())
    out = part.apply(values, context)
    ids = kept(out)
    np.testing.assert_array_equal(out[ids], values[ids])
    cut = sorted(set(kept(values)) - set(ids))
    # Larger logits go before smaller ones, lower ids before higher ones.
    assert not part.keeps_best or all((-values[k], k) < (-values[c], c) for k in ids for c in cut)
    before, after = probabilities(values)[ids], probabilities(out)[ids]
    if ids:
        np.testing.assert_allclose(after * before.sum(), before, rtol=1e-9, atol=1e-300)


# Temperature


@given(logits(), st.floats(0, 1e3), st.floats(0, 1e3))
def test_entropy_never_falls_as_temperature_rises(values: np.ndarray, a: float, b: float) -> None:
    low, high = (entropy_bits(probabilities(Temperature(temperature=t).apply(values, NOTHING))) for t in sorted((a, b)))
    assert low <= high + 1e-9


@given(logits())
def test_temperature_zero_is_the_first_of_the_best(values: np.ndarray) -> None:
    assume(kept(values))
    p = probabilities(Temperature(temperature=0).apply(values, NOTHING))
    assert p[values.tolist().index(values.max())] == 1 and np.count_nonzero(p) == 1


@given(logits(), st.floats(0, 1e-3))
def test_temperature_towards_zero_is_argmax(values: np.ndarray, temperature: float) -> None:
    ranked = np.sort(values[kept(values)])[::-1]
    assume(ranked.size and (ranked.size == 1 or ranked[0] - ranked[1] > 0.1))
    p = probabilities(Temperature(temperature=temperature).apply(values, NOTHING))
    assert p[np.argmax(values)] == pytest.approx(1, abs=1e-12)


@given(logits(), st.floats(1e-2, 1e2))
def test_temperature_is_a_power_of_the_probabilities(values: np.ndarray, temperature: float) -> None:
    assume(kept(values))
    scaled = log_softmax(values) / temperature
    expected = probabilities(scaled)
    tolerance = 1e-12 + 8 * EPS * 1e4 / temperature
    got = probabilities(Temperature(temperature=temperature).apply(values, NOTHING))
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=1e-300)


# Truncation


@given(logits(), st.integers(1, 14))
def test_top_k_keeps_k_or_all_there_are(values: np.ndarray, k: int) -> None:
    out = TopK(top_k=k).apply(values, NOTHING)
    ranked = sorted(kept(values), key=lambda i: (-values[i], i))
    assert kept(out) == sorted(ranked[:k])
    np.testing.assert_array_equal(TopK(top_k=k).apply(out, NOTHING), out)


@given(logits(), st.floats(0, 1, exclude_min=True))
def test_min_p_is_a_share_of_the_best_and_idempotent(values: np.ndarray, share: float) -> None:
    out = MinP(min_p=share).apply(values, NOTHING)
    np.testing.assert_array_equal(MinP(min_p=share).apply(out, NOTHING), out)
    for i in kept(values):
        # Within rounding of the border either answer is right.
        margin = values[i] - values.max() - math.log(share)
        if abs(margin) > 1e-9:
            assert (out[i] > -np.inf) == (margin > 0)


def smallest_set(values: np.ndarray, p: float) -> list[int]:
    """By brute force: the first n of the ranked tokens, n as small as can be, whose exact sum reaches p."""
    weights = probabilities(values)
    ranked = sorted(kept(values), key=lambda i: (-values[i], i))
    for n in range(1, len(ranked)):
        if math.fsum(weights[ranked[:n]]) >= p - ROUNDING:
            return sorted(ranked[:n])
    return sorted(ranked)


@given(logits(), st.one_of(st.floats(0, 1), st.integers(0, 10).map(lambda i: i / 10)))
def test_top_p_is_the_smallest_set_that_reaches_p(values: np.ndarray, p: float) -> None:
    out = TopP(top_p=p).apply(values, NOTHING)
    if p == 1:
        assert kept(out) == kept(values)
        return
    sums = np.cumsum(np.sort(probabilities(values))[::-1])
    assume(not (np.abs(sums - (p - ROUNDING)) < ROUNDING / 100).any())
    assert kept(out) == smallest_set(values, p)
    assert kept(out) or not kept(values)


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 5.0])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_top_p_halving_equals_sorting_everything(spread: float, p: float) -> None:
    values = np.random.default_rng(0).normal(0, spread, 3 * SORTED + 7).round(2)
    values[::5] = -np.inf
    assert kept(TopP(top_p=p).apply(frozen(values), NOTHING)) == smallest_set(values, p)


def test_top_p_counts_equals_as_a_reader_would() -> None:
    assert kept(TopP(top_p=0.8).apply(np.zeros(10), NOTHING)) == list(range(8))


def test_top_p_is_not_idempotent() -> None:
    """What is kept is a distribution of its own, and a smaller set of it may reach p."""
    values = np.log([0.5, 0.3, 0.2])
    once = TopP(top_p=0.6).apply(values, NOTHING)
    twice = TopP(top_p=0.6).apply(once, NOTHING)
    assert kept(once) == [0, 1] and kept(twice) == [0]


# Penalties


@given(
    logits_in_context(),
    st.floats(0.01, 10),
    st.sampled_from(["once", "every_use"]),
    st.floats(-3, 3),
    st.floats(-3, 3),
)
def test_penalties_match_their_definitions(
    given_: tuple[np.ndarray, Context], repetition: float, growth: str, frequency: float, presence: float
) -> None:
    values, context = given_
    expected = values.tolist()
    prompt, generated = context.prompt.tolist(), context.generated.tolist()
    for token in range(values.size):
        uses = (prompt + generated).count(token)
        for _ in range(uses if growth == "every_use" else min(uses, 1)):
            expected[token] = expected[token] * repetition if expected[token] < 0 else expected[token] / repetition
        for _ in range(generated.count(token)):
            expected[token] -= frequency
        if token in generated:
            expected[token] -= presence
    part = Penalties(
        repetition_penalty=repetition, repetition_growth=growth, frequency_penalty=frequency, presence_penalty=presence
    )
    scale = np.abs(values[kept(values)]).max(initial=1) * EPS * 100
    np.testing.assert_allclose(part.apply(values, context), expected, rtol=1e-12, atol=scale + 1e-12)


def test_a_growing_penalty_stays_finite() -> None:
    many = Context(np.zeros(5000, dtype=np.int64), np.array([], dtype=np.int64))
    for penalty in (100.0, 1e-5):
        part = Penalties(repetition_penalty=penalty, repetition_growth="every_use")
        for value in (-3.0, 0.0, 3.0):
            out = part.apply(np.array([value, 1.0]), many)
            assert np.isfinite(out).all() and abs(out[0]) <= 3 * LARGEST_FACTOR


# The chain and the section


@given(logits_in_context(), decodings())
def test_a_chain_in_any_order_leaves_finite_logits(given_: tuple[np.ndarray, Context], decoding: Decoding) -> None:
    values, context = given_
    out, _ = apply(values, context, decoding.chain())
    assert not np.isnan(out).any() and not (out == np.inf).any()
    assert kept(out) or not kept(values)


@given(logits_in_context(), decodings())
def test_a_chain_that_leaves_out_what_is_cut_gives_what_its_filters_give_one_by_one(
    given_: tuple[np.ndarray, Context], decoding: Decoding
) -> None:
    values, context = given_
    whole = values
    for step in decoding.chain():
        whole = step.apply(whole, context)
    out, left = apply(frozen(values), context, decoding.chain())
    if left is None:
        np.testing.assert_array_equal(out, whole)
    else:
        assert left.tolist() == kept(whole)
        np.testing.assert_array_equal(out, whole[left])


@pytest.mark.parametrize("name", [name for name, part in TABLE.items() if part.by_value])
def test_what_a_filter_by_value_does_hangs_on_no_token_that_was_cut(name: str) -> None:
    draws = np.random.default_rng(5)
    given_ = {"top_k": 7, "top_p": 0.7, "min_p": 0.05, "temperature": 0.7}
    step = TABLE[name](**{k: v for k, v in given_.items() if k in TABLE[name].model_fields})
    assert step.active()
    for _ in range(20):
        values = draws.normal(0, 2, 60)
        values[draws.random(60) < 0.3] = -np.inf
        context = Context(draws.integers(0, 60, 20), draws.integers(0, 60, 10))
        alone = step.apply(values[values > -np.inf], context)
        np.testing.assert_array_equal(alone, step.apply(values, context)[values > -np.inf])


@given(logits_in_context(), decodings())
def test_trace_shows_what_the_chain_does(given_: tuple[np.ndarray, Context], decoding: Decoding) -> None:
    values, context = given_
    steps = trace(values, context, decoding.chain())
    assert [s.filter for s in steps] == [f.kind for f in decoding.chain()]
    for one, next_ in itertools.pairwise(steps):
        np.testing.assert_array_equal(one.after, next_.before)
    if steps:
        np.testing.assert_array_equal(steps[0].before, probabilities(values))
        out, left = apply(values, context, decoding.chain())
        after = steps[-1].after if left is None else steps[-1].after[left]
        np.testing.assert_allclose(after, probabilities(out), rtol=1e-14, atol=0)
        assert after.sum() == pytest.approx(steps[-1].after.sum(), rel=1e-14)


@given(decodings())
@settings(max_examples=50)
def test_decoding_survives_print_and_parse(decoding: Decoding) -> None:
    assert Decoding.model_validate_json(decoding.model_dump_json()) == decoding
    assert decoding.updated(max_tokens=decoding.max_tokens) == decoding
    assert [f.kind for f in decoding.chain(idle=True)] == list(decoding.order or TABLE)
    assert all(f.active() for f in decoding.chain())


def test_decoding_has_every_filters_keys_as_they_stand() -> None:
    schema = Decoding.model_json_schema()["properties"]
    for part in TABLE.values():
        for key, told in part.model_json_schema()["properties"].items():
            assert schema[key] == told
    assert all(description(Decoding, key) for key in schema)
    assert Decoding().chain() == ()


@pytest.mark.parametrize(
    ("settings_", "path", "said"),
    [
        ({"order": ["topk"]}, "order", "did you mean `top_k`?"),
        ({"order": ["top_k", "top_k"]}, "order", "twice"),
        ({"order": ["top_k"], "min_p": 0.1}, "order", "min_p=0.1 would change nothing"),
        ({"temperature": -0.5}, "temperature", "greater"),
        ({"temperature": math.nan}, "temperature", "finite"),
        ({"top_p": 1.5}, "top_p", "less"),
        ({"top_k": "3"}, "top_k", "integer"),
        ({"repetition_penalty": 0}, "repetition_penalty", "greater"),
        ({"max_tokens": 0}, "max_tokens", "greater"),
        ({"stop": [""]}, "stop", "at least 1"),
        ({"stop": "x"}, "stop", "tuple"),
        ({"top_q": 1}, "top_q", "not permitted"),
    ],
)
def test_decoding_refuses(settings_: dict[str, object], path: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Decoding.model_validate(settings_)
    (error,) = caught.value.errors()
    assert error["loc"][0] == path
    assert said in json.dumps([error["msg"], error.get("ctx", {})], default=str)


def test_importing_the_section_does_not_import_numpy() -> None:
    code = "import sys, llmspec.spec.decoding, llmspec.decoding; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
