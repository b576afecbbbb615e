"""Records that count more or less: weights as they are read, in every layout, in a step's mean, and in float64."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import plan_of as network_plan
from test_data import CODEC, END_ID, EOT_ID, TEMPLATE, quick, read
from test_sources import plan_of, source
from tinygrad import Tensor

from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy, to_numpy
from llmspec.core.problems import DataError, SpecError
from llmspec.data.checks import data_checks
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import Batch, Pair, PlainLayout, blank
from llmspec.data.packing import DialogueLayout
from llmspec.data.pairs import AnswerLayout, PrefixLayout
from llmspec.data.prepare import prepare
from llmspec.data.reduction import by_sample
from llmspec.data.shaping import Dropped
from llmspec.data.tokens import TokenSet, encode_dialogues, encode_texts
from llmspec.data.weighing import UNWEIGHTED, weight_of
from llmspec.model.device import open_device
from llmspec.model.weights import draw
from llmspec.parts.base import Dims
from llmspec.parts.objectives.base import Outputs
from llmspec.parts.objectives.cross_entropy import CrossEntropy
from llmspec.parts.ops import Linear
from llmspec.parts.sources import Document
from llmspec.parts.templates.base import Turn
from llmspec.training.trainer import Trainer

lengths = st.lists(st.integers(1, 9), min_size=2, max_size=12)
"""Of documents, each of one letter of its own."""


# -- as they are read ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (2, 2.0),
        (0.25, 0.25),
        (" 1e3 ", 1000.0),
        (0, "is 0"),
        (-1.5, "is -1.5"),
        (math.nan, "is empty"),
        ("nan", "is nan"),
        (math.inf, "no finite number"),
        ("1e-60", "0 in float32"),
        ("1e60", "is 1e60"),
        ("often", "is no number"),
        (None, "is empty"),
        (True, "is no number"),
        ([1], "holds a list"),
    ],
)
def test_a_weight_is_a_positive_number_or_the_record_is_left_out(value: Any, found: float | str) -> None:
    got = weight_of(source("inline", records=({"w": 1},), weight="{w}"), Document("a", record={"w": value}))
    if isinstance(found, float):
        assert got == found
    else:
        assert isinstance(got, Dropped) and got.reason == UNWEIGHTED and found in got.detail


def test_a_record_without_the_field_of_a_weight_is_told_from_one_whose_weight_is_empty() -> None:
    made = source("inline", records=({"w": 1},), weight="{w}")
    lacking, empty = (weight_of(made, Document("a", record=record)) for record in ({"v": 1}, {"w": " "}))
    assert isinstance(lacking, Dropped) and lacking.detail == "it has no `w`"
    assert isinstance(empty, Dropped) and empty.detail == "`{w}` is empty"


RECORDS = tuple({"q": f"question {i}?", "a": f"answer {i}.", "w": 1 + i % 3} for i in range(60))
SHAPE = {"user": "{q}", "assistant": "{a}"}


def chat(folder: Path, records: tuple[Any, ...], kind: str = "sft", **more: Any) -> Any:
    made = source("inline", records=records, dialogue=SHAPE, validation="tail 20%", **more)
    return plan_of(folder, {"talk": made}, ("chat", kind, {"talk": 100}, "4 steps"), context=64)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("kind", ["sft", "pretrain"])
def test_weights_lie_beside_the_training_tokens_alone(kind: str, tmp_path: Path) -> None:
    prepared = prepare(chat(tmp_path, RECORDS, kind, weight="{w}"))
    data = prepared.opened("chat", "talk")
    assert data.weights is not None and data.weights.tolist() == [r["w"] for r in RECORDS[: len(data.lengths)]]
    (sides,) = prepared.sides().values()
    assert sides[0][2].weights is None
    assert [check.name for check in data_checks(prepared) if check.holds is False] == []
    batches = [prepared.stream("chat").batch(step) for step in range(prepared.stream("chat").steps)]
    assert {w for batch in batches for w in np.unique(batch.weights)} == {0, 1, 2, 3} - (
        {0} if kind == "pretrain" else set()
    )
    for batch in prepared.validation("chat")["talk"]:
        assert set(np.unique(batch.weights)) <= {0, 1}
    assert prepare(chat(tmp_path, RECORDS, kind)).opened("chat", "talk").weights is None


def test_records_without_a_weight_are_counted_and_named(tmp_path: Path) -> None:
    wrong = ({"w": 0}, {"w": -2}, {"w": "nan"}, {})
    records = tuple({**r, "w": None, **wrong[i]} if i < len(wrong) else r for i, r in enumerate(RECORDS))
    prepared = prepare(chat(tmp_path, records, weight="{w}", max_dropped=20))
    (lost,) = prepared.losses
    assert lost.dropped.counts == {UNWEIGHTED: 4} and any("is -2" in e for e in lost.dropped.examples[UNWEIGHTED])
    assert prepared.stream("chat").planned()[0].documents_dropped == 4
    with pytest.raises(DataError) as error:
        prepare(chat(tmp_path, records, weight="{w}", max_dropped=2))
    assert "4 without a positive weight" in str(error.value) and "`{w}` is 0" in str(error.value)


def test_a_phase_that_draws_what_counts_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="draws the places that count"):
        prepare(chat(tmp_path, RECORDS, "masked_lm", weight="{w}"))


def test_a_weight_names_a_field() -> None:
    with pytest.raises(ValueError, match="names no field"):
        source("inline", records=({"w": 1},), weight="2")


# -- in every layout -------------------------------------------------------------------------------------------------
def letter(i: int) -> str:
    return chr(ord("a") + i)


def weighed(data: TokenSet) -> TokenSet:
    return data._replace(weights=(0.5 + np.arange(len(data.lengths))).astype(np.float32))


def check(batch: Batch, ends: int, most: int) -> None:
    """Every letter that counts does so as its document, and an end as the letter before it."""
    known = {CODEC.encode([letter(i)])[0][0]: 0.5 + i for i in range(most)}
    seen = 0
    for row, place in zip(*np.nonzero(batch.weights), strict=True):
        target, before = int(batch.targets[row, place]), int(batch.tokens[row, place])
        if target == ends and before not in known:
            continue  # where a row or an answer begins with an end
        assert batch.weights[row, place] == known[before if target == ends else target]
        seen += 1
    assert seen


@given(lengths, st.sampled_from([4, 7, 16]))
@quick
def test_text(sizes: list[int], context: int) -> None:
    data = weighed(encode_texts(CODEC, [(letter(i) * n,) for i, n in enumerate(sizes)]))
    blocks = list(range(3 + 2 * (sum(sizes) + len(sizes)) // context))
    check(read(PlainLayout(data, context, END_ID, True, ("s",)), context, blocks), END_ID, len(sizes))
    held = read(PlainLayout(data, context, END_ID, True, None), context, [0])
    assert set(np.unique(held.weights)) == {1}
    layout = PrefixLayout(data, context, END_ID, Pair(context, 5), ("s",))
    batch = blank(len(blocks), context, END_ID, Pair(context, 5))
    layout.gather(batch, np.arange(len(blocks)), np.array(blocks))
    rows = np.flatnonzero(batch.filled > 0)
    # The decoder's first input is the start token: what its first target belongs to stands at the end of the source.
    batch.tokens[rows, 0] = batch.encoder_tokens[rows, batch.encoder_filled[rows] - 1]  # type: ignore[index]
    check(batch, END_ID, len(sizes))


@given(lengths, st.booleans())
@quick
def test_dialogues(sizes: list[int], last: bool) -> None:
    spoken = [[Turn("user", ("?",)), Turn("assistant", (letter(i) * n,))] * 2 for i, n in enumerate(sizes)]
    data, learn = weighed(encode_dialogues(CODEC, TEMPLATE, spoken)), ("last_turn",) if last else ("assistant",)
    layout = DialogueLayout(data, learn, 64, END_ID, True, ("s",))
    batch = read(layout, 64, list(range(int(layout.blocks_per_epoch) + 1)))
    check(batch, EOT_ID, len(sizes))
    pairs = AnswerLayout(data, learn, 64, END_ID, Pair(64, 5), ("s",))
    batch = blank(int(pairs.blocks_per_epoch), 64, END_ID, Pair(64, 5))
    pairs.gather(batch, np.arange(len(batch.tokens)), np.arange(len(batch.tokens)))
    check(batch, EOT_ID, len(sizes))


@given(lengths)
@quick
def test_the_mean_over_samples_weighs_samples(sizes: list[int]) -> None:
    spoken = [[Turn("user", ("?",)), Turn("assistant", (letter(i) * n,))] for i, n in enumerate(sizes)]
    data = weighed(encode_dialogues(CODEC, TEMPLATE, spoken))
    layout = DialogueLayout(data, ("assistant",), 64, END_ID, True, ("s",))
    batch = read(layout, 64, list(range(int(layout.blocks_per_epoch))))
    (found,) = by_sample([batch], [{"loss_weights": batch.weights}])
    numbers = batch.documents + 1000 * np.arange(len(batch.tokens))[:, None]
    own = np.array([found["loss_weights"][numbers == n].sum() for n in np.unique(numbers)])
    own = np.sort(own[own > 0])
    assert own / own[0] == pytest.approx((0.5 + np.arange(len(sizes))) / 0.5, rel=1e-5)
    assert found["loss_weights"].sum() == pytest.approx(batch.weights.sum(), rel=1e-5)


# -- what is minimised -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plain", [False, True])
def test_the_weighted_mean_and_its_gradients_in_float64(plain: bool) -> None:
    N, D, V = 24, 12, 33
    dice = np.random.default_rng(3)
    x, w = dice.standard_normal((N, D)).astype(np.float32), dice.standard_normal((V, D)).astype(np.float32)
    targets = dice.integers(0, V, N).astype(np.int32)
    counts = np.where(dice.random(N) < 0.3, 0, dice.random(N)).astype(np.float32)
    open_device("CPU")
    low = backend("CPU", plain)
    given, rest = tensors_from_numpy(x=x, w=w), tensors_from_numpy(targets=targets, loss_weights=counts / counts.sum())
    outputs, rest = Outputs(given["x"].reshape(1, N, D), Linear(given["w"], None)), {**rest, **low.inputs}
    loss = CrossEntropy().build(Dims(D, 1, N, V))(low.ops(rest), outputs, rest)["loss"]
    gradients = loss.gradient(given["x"], given["w"])
    Tensor.realize(loss, *gradients)
    logits = x.astype(np.float64) @ w.astype(np.float64).T
    logits -= logits.max(1, keepdims=True)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    shares = counts.astype(np.float64) / counts.astype(np.float64).sum()
    wanted = -(shares * np.log(chances[np.arange(N), targets])).sum()
    chances[np.arange(N), targets] -= 1
    slope = chances * shares[:, None]
    assert float(to_numpy(loss)) == pytest.approx(wanted, rel=1e-5)
    for made, right in zip(gradients, (slope @ w, slope.T @ x), strict=True):
        assert np.linalg.norm(to_numpy(made) - right) <= 1e-5 * np.linalg.norm(right)


def step(factor: float, passes: int) -> tuple[float, dict[str, Any]]:
    """(loss, weights after it) of a step on the same rows, all of whose weights have a factor."""
    more = {
        "micro_batch_size": 2 // passes,
        "gradient_accumulation_steps": passes,
        "optimizer": {"kind": "sgd", "lr": 0.1},
    }
    plan = network_plan({"heads": {"lm": {"tied": True}}}, **more)
    phase, dice = plan.phases[0], np.random.default_rng(1)
    weights = {t.name: draw(t, 1) for t in phase.model.tensors}
    made = blank(2, plan.model.context, 0)
    made.tokens[:], made.targets[:] = dice.integers(8, 16, (2, *made.tokens.shape))
    made.filled[:], made.weights[:] = plan.model.context, factor * dice.random(made.weights.shape)
    rows = [Batch(*(None if a is None else a[i::passes] for a in made)) for i in range(passes)]
    inputs = BatchInputs(phase.model, phase.phase, plan.tokenizer.meanings(), (1,))
    trainer = Trainer(plan, phase, backend("CPU"), lambda t: weights[t.name])
    taken = trainer.step([inputs(row, 0) for row in rows], phase.phase.optimizer.scalars(1.0, 1), 0)
    assert taken.targets == made.weights.size
    return taken.sums["loss"], trainer.weight_arrays()


def test_what_all_weights_have_in_common_does_nothing() -> None:
    """Also where they add up to less than one."""
    (loss, after), others = step(1.0, 1), [step(1e-4, 1), step(1e4, 1), step(1e-4, 2)]
    for other, moved in others:
        assert other == pytest.approx(loss, rel=1e-5)
        for name, value in after.items():
            assert np.abs(moved[name] - value).max() <= 1e-6


def test_the_key_is_read_from_a_spec(tmp_path: Path) -> None:
    import tiny

    from llmspec.spec import load_spec

    text = tiny.TINY.replace('      text: "{q}: {a}"\n', '      text: "{q}: {a}"\n      weight: "often"\n')
    with pytest.raises(SpecError) as error:
        load_spec(tiny.write(tmp_path, text))
    (problem,) = error.value.problems
    assert "names no field" in problem.message and problem.mark and json.dumps(problem.path)
