"""Rows that grow: the same tokens a step in more rows, each read as by a model of that context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import CONTEXT, VOCAB, drawn_weights, plan_of

from llmspec.backends.backend import backend
from llmspec.compiler.budget import length, steps_of, tokens_of
from llmspec.compiler.cost import phase_cost, step_cost
from llmspec.compiler.lengths import shortened
from llmspec.compiler.plan import Plan
from llmspec.core.problems import SpecError
from llmspec.core.units import Budget, Share
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Batch, PlainLayout, blank
from llmspec.data.rows import cut, joined
from llmspec.data.tokens import TokenSet
from llmspec.explain.phases import row_lengths
from llmspec.forecast import estimates
from llmspec.forecast.calibration import Rates
from llmspec.parts.phases.lengths import RowLengths, SequenceLength, length_problems
from llmspec.parts.tokenizers.special_tokens import SpecialTokens
from llmspec.render.report_spec import rows_that_grow
from llmspec.training.trainer import Trainer

SPECIALS = SpecialTokens({"eos": VOCAB - 1})
HALF = {"start": 6, "until": "50%"}
QUARTER = {"start": 3, "until": "50%"}


@given(st.integers(0, 5), st.integers(1, 9), st.floats(0.01, 1.0), st.integers(1, 300))
def test_lengths_double_in_equal_parts(halvings: int, odd: int, until: float, steps: int) -> None:
    made = RowLengths.of(odd << halvings, SequenceLength(start=odd, until=Share(100 * until)))
    assert made.lengths == tuple(odd << k for k in range(halvings + 1))
    each = [made.at(step, steps) for step in range(steps)]
    warm = round(made.growing * steps) if halvings else 0
    assert each == sorted(each) and {*each[warm:]} <= {made.lengths[-1]}
    assert all(n < made.lengths[-1] for n in each[:warm])
    counts = [each[:warm].count(n) for n in made.lengths[:-1]]
    assert not counts or max(counts) - min(counts) <= 1
    assert [n for n, begin, end in made.stages(steps) for _ in range(begin, end)] == each


def layouts(mask: bool, weighs: bool) -> tuple[Any, Any]:
    """The same text in blocks of 12 tokens and of 3."""
    rng = np.random.default_rng(5)
    lengths = np.array([4, 1, 9, 30, 2, 17, 6])
    ids = rng.integers(0, VOCAB - 1, lengths.sum()).astype(np.uint16)
    weights = (1 + np.arange(len(lengths)) % 3).astype(np.float32) if weighs else None
    data = TokenSet(ids, np.concatenate([[0], np.cumsum(lengths)]), lengths[:, None], weights=weights)
    whole, short = (PlainLayout(data, n, VOCAB - 1, mask, ("seed",)) for n in (12, 3))
    return whole, short


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("weighs", [False, True])
def test_a_cut_row_is_what_a_shorter_block_would_be(mask: bool, weighs: bool) -> None:
    """Of the same text in blocks of that length, also of the second epoch; put together again it is the row."""
    whole, short = layouts(mask, weighs)
    blocks = np.arange(10)
    batch, expected = blank(len(blocks), 12, 0), blank(4 * len(blocks), 3, 0)
    whole.gather(batch, blocks, blocks)
    short.gather(expected, np.arange(40), np.arange(40))
    batch.source[:] = blocks % 2
    expected.source[:] = np.repeat(batch.source, 4)
    found = cut(batch, 3, mask)
    for name in Batch._fields:
        if getattr(expected, name) is not None:
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
            assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert whole.counts(10).tokens_repeated == found.repeated.sum() > 0
    for name in Batch._fields:
        if getattr(expected, name) is not None:
            np.testing.assert_array_equal(getattr(joined(found, batch), name), getattr(batch, name), err_msg=name)


MODELS: dict[str, dict[str, Any]] = {
    "rope": {"position": {"kind": "rope"}, "mask": {"kind": "causal", "window": 4}},
    "learned": {"position": {"kind": "learned"}},
    "t5": {"position": {"kind": "t5_relative", "buckets": 6, "max_distance": 9}},
    "alibi, experts": {
        "position": {"kind": "alibi"},
        "mlp": {"kind": "mixture_of_experts", "experts": 3, "top_k": 1},
    },
    "growing base": {
        "position": {"kind": "rope", "scaling": {"kind": "dynamic", "factor": 2.0, "original_context": 5}},
    },
}


def stepped(plan: Plan, rows: Batch, start: dict[str, np.ndarray], numbers: list[int]) -> tuple[list[Any], Any]:
    """What steps on these rows come to, and the weights after them."""
    (planned,) = plan.phases
    inputs = BatchInputs(planned.model, planned.phase, SPECIALS, ("seed",))
    inputs = inputs.of_length(rows.tokens.shape[1])
    trainer = Trainer(plan, planned, backend("CPU"), lambda t: start[t.name])
    taken = []
    for number in numbers:
        scalars = trainer.steps.updates.numbers(1.0, number + 1, 4)
        taken.append(trainer.step([inputs(rows, number, 0)], scalars, number))
    return taken, trainer.weight_arrays()


def text_rows(rows: int, length: int, mask: bool) -> Batch:
    rng = np.random.default_rng(9)
    found = blank(rows, length, 0)
    found.tokens[:], found.targets[:] = rng.integers(0, VOCAB, (2, rows, length))
    found.weights[:], found.filled[:] = 1, length
    if mask:
        begins = rng.random((rows, length)) < 0.3
        begins[:, 0] = True
        places = np.arange(length)
        found.documents[:] = np.cumsum(begins, 1) - 1
        found.positions[:] = places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return found


@pytest.mark.parametrize(("name", "mask"), [*((name, i % 2 == 1) for i, name in enumerate(MODELS)), ("rope", True)])
def test_a_step_is_that_of_a_model_of_that_context(name: str, mask: bool) -> None:
    """Loss, norm and weights, of the same numbers; of learned positions those beyond it stay as they are."""
    settings = {"optimizer": {"kind": "sgd", "lr": 0.1}, "document_mask": mask}
    model = {"layers": 1, "attention": {"kind": "multi_head", "heads": 2}, **MODELS[name]}
    long = plan_of(model, micro_batch_size=1, sequence_length=HALF, **settings)
    short = plan_of({**model, "context": 6}, micro_batch_size=2, **settings)
    start = drawn_weights(long.model, 3)
    cropped = {t.name: start[t.name][tuple(slice(n) for n in t.shape)] for t in short.model.tensors}
    batch = text_rows(1, CONTEXT, mask)
    taken, weights = stepped(long, cut(batch, 6, mask), start, [0, 1])
    expected, others = stepped(short, cut(batch, 6, mask), cropped, [0, 1])
    for one, other in zip(taken, expected, strict=True):
        assert one.sums == pytest.approx(other.sums, rel=1e-6) and one.norm == pytest.approx(other.norm, rel=1e-6)
        assert one.targets == other.targets == CONTEXT
    moved = 0
    for key, array in others.items():
        crop = tuple(slice(n) for n in array.shape)
        np.testing.assert_allclose(weights[key][crop], array, rtol=1e-6, atol=1e-7, err_msg=key)
        moved += int(np.count_nonzero(array != cropped[key]))
        if array.shape != start[key].shape:
            np.testing.assert_array_equal(weights[key][6:], start[key][6:])
    assert moved > 100


def test_steps_of_all_lengths_change_one_model() -> None:
    """Only the graphs of one shorter length are there at a time, and none once rows are whole; what the whole ones take
    is what they take alone."""
    plan = plan_of({"layers": 1}, micro_batch_size=2, sequence_length=QUARTER, optimizer={"kind": "sgd", "lr": 0.1})
    (planned,) = plan.phases
    start = drawn_weights(plan.model, 3)
    trainer = Trainer(plan, planned, backend("CPU"), lambda t: start[t.name])
    inputs = BatchInputs(planned.model, planned.phase, SPECIALS, ("seed",))
    batch, losses = text_rows(2, CONTEXT, False), []
    lengths = planned.phase.row_lengths(CONTEXT)
    for step in range(6):
        at = inputs.of_length(lengths.at(step, 6))
        held = trainer.captured_bytes()
        taken = trainer.step([at(at.cut(batch), step, 0)], trainer.steps.updates.numbers(1.0, step + 1, 6), step)
        losses.append(taken.sums["loss"])
        assert (trainer._shorter.length if trainer._shorter else CONTEXT) == lengths.at(step, 6)
    assert held and [lengths.at(step, 6) for step in range(6)] == [3, 3, 6, 12, 12, 12]
    assert losses == sorted(losses, reverse=True)
    alone = Trainer(plan, planned, backend("CPU"), lambda t: start[t.name])
    alone.step([inputs(batch, 0, 0)], alone.steps.updates.numbers(1.0, 1, 6), 0)
    assert trainer.captured_bytes() == alone.captured_bytes()


@pytest.mark.parametrize("warmup", ["0%", "60%"])
def test_budgets_and_costs_count_the_length_of_every_step(warmup: str) -> None:
    growing = {"gradient_accumulation_steps": 3, "batch_size_warmup": warmup, "sequence_length": QUARTER}
    plan = plan_of({"layers": 1}, budget="41 steps", **growing)
    (planned,) = plan.phases
    model, phase = plan.model, planned.phase
    lengths, passes = phase.row_lengths(CONTEXT), phase.batches
    whole = [0.0, 0.0]
    for step in range(41):
        one = step_cost(*shortened(model, phase, lengths.at(step, 41)), passes.at(step, 41))
        whole = [whole[0] + one.products, whole[1] + one.total]
    assert planned.flops == pytest.approx(whole[0]) and planned.operations == pytest.approx(whole[1])
    assert phase_cost(model, phase, 41).products == pytest.approx(whole[0])
    (plain,) = plan_of({"layers": 1}, budget="41 steps", **{**growing, "sequence_length": None}).phases
    assert plain.tokens == planned.tokens == tokens_of(model, phase, 41)
    assert plain.flops is not None and planned.flops is not None and planned.flops < plain.flops
    assert planned.memory == plain.memory and planned.key != plain.key
    for unit in ("tokens", "FLOPs", "steps"):
        assert steps_of(length(41, model, phase).budget(unit), model, phase) == 41


def test_less_time_is_expected_of_shorter_rows() -> None:
    """Of the steps; validation reads whole rows."""
    seconds = dict.fromkeys(("norm", "gate", "update", "drop", "call"), 1e-9)
    rates = Rates(widths=(1, 64), products=(1e9, 1e9), attention=1e6, loss=1.0, **seconds)
    found = []
    for own in (None, {"start": 3, "until": "100%"}):
        plan = plan_of({"layers": 1}, budget="40 steps", sequence_length=own)
        (planned,) = plan.phases
        found.append((estimates.forecasts(plan, rates, {})["p"], estimates.shape_key(planned.model, planned.phase)))
    (whole, key), (short, other) = found
    assert short.steps < whole.steps and key != other
    assert short.tokens_per_second == pytest.approx(whole.tokens_per_second * whole.steps / short.steps)
    assert short.samples == pytest.approx(whole.samples)


def test_explain_says_how_long_rows_are() -> None:
    (planned,) = plan_of({"layers": 1}, budget="9 steps", sequence_length=QUARTER).phases
    assert row_lengths(planned) == ((3, 2), (6, 2), (12, 5))
    said = "of 3 tokens for 2 steps, then of 6 tokens for 2 steps, then of 12 tokens"
    assert rows_that_grow(row_lengths(planned)).startswith(said)
    assert row_lengths(planned.model_copy(update={"steps": None})) == ((3, None), (6, None), (12, None))
    (plain,) = plan_of({"layers": 1}).phases
    assert row_lengths(plain) == ()


@pytest.mark.parametrize(
    ("until", "budget", "path", "word"),
    [
        (120.0, "9 steps", "until", "more than all"),
        (0.0, "9 steps", "until", "nothing"),
        (30.0, "5 minutes", "", "minutes"),
    ],
)
def test_what_would_change_nothing_is_refused(until: float, budget: str, path: str, word: str) -> None:
    (problem,) = length_problems(SequenceLength(start=4, until=Share(until)), Budget.parse(budget))
    assert word in problem.message and problem.hint and problem.path == ("sequence_length", *([path] if path else []))
    assert not [*length_problems(None, Budget.parse("5 minutes"))]


@pytest.mark.parametrize(
    ("start", "model", "path", "hint"),
    [
        (5, {}, ("sequence_length", "start"), "start: 6"),
        (12, {}, ("sequence_length", "start"), "start: 6"),
        (40, {}, ("sequence_length", "start"), "start: 6"),
        (1, {"context": 9}, ("sequence_length", "start"), "odd context"),
        (6, {"encoder": {"layers": 1}}, ("sequence_length",), "leave it out"),
    ],
)
def test_lengths_that_do_not_double_into_the_context_are_refused(
    start: int, model: dict[str, Any], path: tuple[str, ...], hint: str
) -> None:
    with pytest.raises(SpecError) as error:
        plan_of(model, sequence_length={"start": start, "until": "30%"})
    (problem,) = error.value.problems
    assert problem.path == ("phases", "p", *path) and hint in problem.hint and problem.consequence
