"""Answers that a model draws while it trains: what they follow from, how they lie in rows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import SpecError
from llmspec.data.prepare import prepare
from llmspec.parts.rewards.base import Answered, Reward
from llmspec.spec import load_spec
from llmspec.training.callbacks import Callback
from llmspec.training.prompts import rehearse
from llmspec.training.rollout_signs import Signs
from llmspec.training.rollouts import Episodes, Prompt, Refused, draw, judged, packed, places_of, rows_needed
from llmspec.training.run import set_up
from llmspec.training.stop import Stop
from llmspec.training.tasks import TASKS
from llmspec.training.trainer import Trainer

MOST = 5


def episodes(lengths: list[int], prompts: list[int], group: int) -> Episodes:
    given = tuple(Prompt(list(range(10 * i, 10 * i + n)), "", {}, "s") for i, n in enumerate(prompts))
    tokens = np.zeros((len(lengths), MOST), np.int32)
    for i, n in enumerate(lengths):
        tokens[i, :n] = 100 + 10 * i + np.arange(n)
    zeros = np.zeros(len(lengths), np.float32)
    return Episodes(given, tokens, np.array(lengths, np.int32), zeros > 0, {}, zeros, {})


@given(
    data=st.data(),
    groups=st.integers(1, 4),
    group=st.integers(1, 3),
    width=st.integers(12, 40),
    rows=st.integers(1, 3),
)
def test_answers_lie_in_rows_behind_their_prompts(data: Any, groups: int, group: int, width: int, rows: int) -> None:
    """Every token of an answer is the target of the place before it, and what is spread over places comes back."""
    prompts = data.draw(st.lists(st.integers(1, 8), min_size=groups, max_size=groups))
    n = groups * group
    made = episodes(data.draw(st.lists(st.integers(1, MOST), min_size=n, max_size=n)), prompts, group)
    which = np.array(data.draw(st.permutations(range(n))))
    longest = max(prompts)
    found = packed(made, which, (rows, width), 999)
    used = np.concatenate([batch.filled for batch in found.batches])
    used = used[used > 0]
    assert len(used) <= rows_needed(n, longest, MOST, width) and len(found.batches) == -(-len(used) // rows)
    assert all(a + b > width for i, a in enumerate(used) for b in used[i + 1 :])  # no two would fit into one row
    assert places_of(longest, MOST) <= width
    values = np.arange(n * MOST, dtype=np.float32).reshape(n, MOST) + 1
    lengths = made.lengths[which]
    spread = found.spread(values, lengths)
    here = np.arange(MOST) < lengths[:, None]
    assert (found.gathered(spread, lengths, MOST) == np.where(here, values, 0)).all()
    targets = [batch.targets for batch in found.batches]
    back = found.gathered(targets, lengths, MOST)
    assert (back == np.where(here, made.tokens[which], 0)).all()
    assert sum(float(batch.weights.sum()) for batch in found.batches) == lengths.sum()
    for batch in found.batches:
        for row in range(rows):
            filled = int(batch.filled[row])
            assert (batch.tokens[row, filled:] == 999).all() and not batch.weights[row, filled:].any()
            documents = batch.documents[row]
            starts = np.flatnonzero(np.diff(documents, prepend=-1))
            assert (batch.positions[row, starts] == 0).all()
            for number in range(documents[:filled].max(initial=-1) + 1):  # each is one whole text
                places = np.flatnonzero(documents[:filled] == number)
                assert (np.diff(places) == 1).all()
                assert (batch.tokens[row, places[1:]] == batch.targets[row, places[:-1]]).all()


# -- a phase at work ---------------------------------------------------------------------------------------------------
class Bench:
    """The task and the trainer of a smallest phase, before its first step."""

    def __init__(self, folder: Path, *sets: str) -> None:
        text, own = phase_kinds.spec_of("grpo")
        plan = compile_spec(load_spec(tiny.write(folder, text), [*own, *sets]).spec)
        self.prepared = prepare(plan)
        self.plan = complete(plan, self.prepared.measured)
        self.phase = self.plan.phases[-1]
        self.context = set_up(self.plan, self.prepared, Callback(), Stop())
        random = np.random.default_rng(0)
        self.weights = {t.name: random.normal(0, 0.3, t.shape).astype(np.float32) for t in self.phase.model.tensors}
        self.task: Any = TASKS["grpo"](self.context, self.phase)
        self.trainer = Trainer(
            self.plan,
            self.phase,
            self.context.backend,
            lambda t: self.weights[t.name],
            None,
            {"reference": lambda: self.weights},
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("rollouts"), "phases.phase.temperature=1.5")


def test_log_probabilities_are_those_that_answers_were_drawn_with(bench: Bench) -> None:
    """The pass over packed rows and the decoder agree, at the temperature, with dropout left out; the reference has
    the same weights."""
    task = bench.task
    made = task.roll(bench.trainer, 0)
    codec, prompts = bench.prepared.codec, task.asked(0)
    seed = (bench.plan.seed, "phase", 0)
    drawn = list(draw(task.decoder(bench.trainer), codec, prompts, task.decoding, made.group, seed, rows=3))
    for i, answer in enumerate(drawn):  # other rows beside it, and the same answers
        assert made.tokens[i, : made.lengths[i]].tolist() == answer.tokens
        wanted = np.log([choice.probability for choice in answer.choices])
        assert np.abs(made.by_token["logps"][i, : len(wanted)] - wanted).max() < 1e-4
    assert (made.by_token["logps"] == made.by_token["reference_logps"]).all()
    assert 0 < made.by_token["entropy"][made.drawn].mean() < np.log(bench.phase.model.vocab)
    assert made.prompt(0).text in "one two three four five six seven eight" and made.prompt(0).record["answer"]
    assert {"q", "a", "answer"} <= made.prompt(0).record.keys()


def test_answers_are_a_function_of_their_place(bench: Bench) -> None:
    task = bench.task
    first, again, other = (task.roll(bench.trainer, number) for number in (0, 0, 1))
    assert (first.tokens == again.tokens).all()
    assert (first.tokens != other.tokens).any()
    assert len({first.tokens[i].tobytes() for i in range(len(first.tokens))}) > 1
    task.made = first
    orders = [task.which(step).tolist() for step in range(4)]  # two epochs of two mini-batches
    assert sorted(orders[0] + orders[1]) == sorted(orders[2] + orders[3]) == list(range(4))


def test_passes_that_would_stay_empty_are_left_out(bench: Bench, tmp_path: Path) -> None:
    """Two short answers share a row, so that one of up to two passes is enough, and the step comes to the same."""
    whole = "phases.phase.temperature=1.5"
    by_row = Bench(tmp_path, whole, "phases.phase.micro_batch_size=1", "phases.phase.gradient_accumulation_steps=2")
    taken = []
    for one in (bench, by_row):
        made = one.task.roll(one.trainer, 0)
        short = np.array([1, 2, 1, 2], np.int32)
        tokens = np.where(np.arange(made.tokens.shape[1]) < short[:, None], made.tokens, 0)
        rewards = np.array([0, 1, 1, 0], np.float32)
        one.task.made, one.task.rollout = made._replace(tokens=tokens, lengths=short, rewards=rewards), 0
        scalars = one.trainer.steps.updates.numbers(1.0, 1, 1, 1)
        taken.append(one.task.train(one.trainer, 0, scalars))
    assert [t.passes for t in taken] == [1, 1] and taken[0].targets == taken[1].targets
    assert abs(taken[0].norm / taken[1].norm - 1) < 1e-5
    assert taken[0].sums == pytest.approx(taken[1].sums, rel=1e-5, abs=1e-7)


class Broken(Reward):
    """Gives what it is told."""

    kind: str = "broken"
    value: Any = None

    def score(self, answer: Answered) -> float:
        if isinstance(self.value, Exception):
            raise self.value
        return float(self.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), "the reward `broken` is nan for the answer 'yes' to 'really\\?'"),
        (float("inf"), "is inf for the answer"),
        (ZeroDivisionError("by zero"), "the reward `broken` failed: ZeroDivisionError: by zero"),
        (KeyError("wanted"), "failed: the record has no field 'wanted'"),
    ],
)
def test_rewards_that_are_none_are_named(value: Any, said: str) -> None:
    reward = Broken.model_construct(kind="broken", value=value, weight=1.0)
    with pytest.raises(Refused, match=said):
        judged(reward, [Answered("really?", "yes")], lambda model: None)  # type: ignore[arg-type, return-value]


def test_a_divergence_above_its_ceiling_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench.task.roll(bench.trainer, 0)
    far = made._replace(by_token={**made.by_token, "reference_logps": made.by_token["logps"] - 1})
    phase = bench.task.phase
    monkeypatch.setattr(bench.task, "phase", phase.model_copy(update={"kl_ceiling": 1.25}))
    bench.task._hold_near(made, 0)
    bench.task._hold_near(far, 0)
    monkeypatch.setattr(bench.task, "phase", phase.model_copy(update={"kl_ceiling": 0.75}))
    with pytest.raises(Refused, match=r"1 nats per token, above `kl_ceiling: 0\.75`"):
        bench.task._hold_near(far, 0)


def test_a_divergence_that_explodes_is_told_once_where_no_ceiling_stops_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = bench.task.roll(bench.trainer, 0), list[str]()
    monkeypatch.setattr(bench.task, "signs", Signs("phase", said.append))
    monkeypatch.setattr(bench.task, "phase", bench.task.phase.model_copy(update={"kl_ceiling": None}))
    for rollout, less in enumerate((0, 2.5, 3.5, 4)):
        held = {**made.by_token, "reference_logps": made.by_token["logps"] - less}
        bench.task._hold_near(made._replace(by_token=held), rollout)
    (told,) = said
    assert "answers of rollout 3 are 3.5 nats per token from the reference" in told and "`kl_ceiling`" in told


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("phases.phase.micro_batch_size=1", "take 2 rows of 16, and it has 1"),
        ("phases.phase.reward={kind: exact_match, reference: '{wanted}'}", "reads `wanted`, which record 1 of facts"),
    ],
)
def test_what_hinders_a_rollout_is_named_before_step_0(tmp_path: Path, sets: str, said: str) -> None:
    text, own = phase_kinds.spec_of("grpo")
    plan = compile_spec(load_spec(tiny.write(tmp_path, text), [*own, sets]).spec)
    prepared = prepare(plan)
    with pytest.raises(SpecError, match=said):
        rehearse(complete(plan, prepared.measured), prepared)


def test_prompts_without_room_are_left_out_and_counted(tmp_path: Path) -> None:
    text, own = phase_kinds.spec_of("grpo")
    sets = [*own, "phases.phase.max_tokens=9", "data.sources.facts.max_dropped=90%"]
    prepared = prepare(compile_spec(load_spec(tiny.write(tmp_path, text), sets).spec))
    found = {loss.phase: loss.dropped.counts for loss in prepared.losses}
    assert not found["before"] and sum(found["phase"].values()) > 0
