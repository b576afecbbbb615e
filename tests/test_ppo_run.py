"""PPO at work: what each token of a rollout is worth, what is kept for resuming, and a reward that rises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import reference
import tiny

from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import DataError, RunError, SpecError
from llmspec.data.prepare import prepare
from llmspec.spec import load_spec
from llmspec.training.advantages import next_coefficient
from llmspec.training.callbacks import Callback
from llmspec.training.run import set_up
from llmspec.training.stop import Stop
from llmspec.training.tasks.ppo import PPO
from llmspec.training.trainer import Trainer

QUIET = ("model.dropout=0", "tokenizer={kind: char, vocab: 24, max_unknown: 10%}", "phases.phase.temperature=1.3")


class Bench:
    """The task and the trainer of a smallest phase, before its first step."""

    def __init__(self, folder: Path, *sets: str, phase: str = "") -> None:
        text, own = phase_kinds.spec_of("ppo")
        plan = compile_spec(load_spec(tiny.write(folder, text), [*own, *QUIET, *sets]).spec)
        prepared = prepare(plan)
        self.plan = complete(plan, prepared.measured)
        self.phase = self.plan.phase(phase) if phase else self.plan.phases[-1]
        self.context = set_up(self.plan, prepared, Callback(), Stop())
        random = np.random.default_rng(0)
        self.weights = {t.name: random.normal(0, 0.3, t.shape).astype(np.float32) for t in self.phase.model.tensors}
        before = {name: random.normal(0, 0.3, array.shape).astype(np.float32) for name, array in self.weights.items()}
        self.before = {t.name: before[t.name] for t in self.phase.others["reference"].model.tensors}
        self.task: Any = PPO(self.context, self.phase)
        others = {"reference": lambda: self.before}
        self.trainer = Trainer(
            self.plan, self.phase, self.context.backend, lambda t: self.weights[t.name], None, others
        )

    def scalars(self, step: int, steps: int) -> list[Any]:
        factor = self.phase.phase.schedule.factor(step, steps)
        return list(self.trainer.steps.updates.numbers(factor, step + 1, steps, step + 1))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(
        tmp_path_factory.mktemp("ppo"), "phases.phase.missing_end_penalty=0.25", "phases.phase.kl_coefficient=0.3"
    )


def test_tokens_are_worth_what_the_formulas_say(bench: Bench) -> None:
    """Prompt and answer of each episode read alone, in float64: values before each token, divergences, rewards,
    advantages; and each at the place of its token in the rows that are learned from."""
    task, _phase = bench.task, bench.phase.phase
    wide, other = reference.double(bench.weights), reference.double(bench.before)
    task.made, task.rollout = made, _ = task.roll(bench.trainer, 0), 0
    wanted, scores = [], np.zeros(len(made.lengths))
    for i, n in enumerate(made.lengths.tolist()):
        prompt, answer = list(made.prompt(i).ids), made.tokens[i, :n].tolist()
        ids, first = np.array([*prompt, *answer]), len(prompt) - 1
        logs = {}
        for name, model, w in (("own", bench.phase.model, wide), ("other", phase_model(bench), other)):
            logits = reference.row_logits(model, w, ids[:-1])[first:] / 1.3
            logs[name] = np.log(reference.softmax(logits))[np.arange(n), answer]
        states = reference.row_hidden(bench.phase.model, wide, ids[:-1])[first:]
        values = states @ wide["value_head.weight"][0] + wide["value_head.bias"]
        scores[i] = made.rewards[i] - 0.25 * (not made.ended[i])
        rewards = -0.3 * (logs["own"] - logs["other"])
        rewards[-1] += scores[i]
        gains = np.zeros(n)
        for t in range(n):
            deltas = [rewards[s] + (values[s + 1] if s + 1 < n else 0) - values[s] for s in range(t, n)]
            gains[t] = sum(0.95**k * delta for k, delta in enumerate(deltas))
        wanted.append((gains, gains + values, values))
    assert made.ended.sum() > 0 or not made.ended.any()
    flat = np.concatenate([gains for gains, _, _ in wanted])
    mean, spread = flat.mean(), flat.std(ddof=1)
    steps = [task.batches(step) for step in range(2)]  # the mini-batches of one epoch
    seen = 0
    for arrays in (a for step in steps for a in step):
        for row in range(arrays["tokens"].shape[0]):
            here = np.flatnonzero(arrays["answers"][row])
            for stretch in np.split(here, np.flatnonzero(np.diff(here) > 1) + 1) if len(here) else ():
                drawn = arrays["targets"][row][stretch].tolist()
                own = [i for i, n in enumerate(made.lengths) if made.tokens[i, :n].tolist() == drawn]
                options = [
                    all(
                        np.allclose(arrays[name][row][stretch], number, rtol=1e-3, atol=1e-4)
                        for name, number in (
                            ("advantages", (wanted[i][0] - mean) / spread),
                            ("returns", wanted[i][1]),
                            ("old_values", wanted[i][2]),
                        )
                    )
                    for i in own
                ]
                assert any(options)
                seen += len(stretch)
    assert seen == made.lengths.sum()
    told = task.told(made)
    assert told["kl_coefficient"] == 0.3 and told["explained_variance"] < 1 and told["kl"] != 0


def phase_model(bench: Bench) -> Any:
    """The reference's."""
    return bench.phase.others["reference"].model


def test_the_coefficient_follows_the_divergence_and_is_kept(bench: Bench) -> None:
    task = PPO(bench.context, bench.phase)
    made = task.roll(bench.trainer, 0)
    kl = float(task.divergences(made).sum(1).mean())
    follows = next_coefficient(0.3, kl, 1.0, 20.0, 4)
    assert task.state(0)["kl_coefficients"] == [0.3, follows] and follows != 0.3
    task.made, task.rollout = made, 0
    again = PPO(bench.context, bench.phase)
    again.restore(task.state(1), task.tensors(), 1)
    for one, other in zip(task.batches(1), again.batches(1), strict=True):
        assert all((one[name] == other[name]).all() for name in one)
    assert again.state(1) == task.state(1)
    for wrong in ([0.3], None, [0.3, "0.1"], [-1.0, 0.1]):
        with pytest.raises(RunError, match="kl_coefficients are damaged"):
            again.restore({**task.state(1), "kl_coefficients": wrong}, task.tensors(), 1)


def test_what_cannot_be_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    text, own = phase_kinds.spec_of("ppo")
    for sets, said in (
        (("phases.phase.kl_coefficient=0",), "a coefficient of 0 stays 0"),
        (("phases.phase.objective={kind: ppo, value: {head: lm}}",), "cannot read the head `lm`"),
        (("phases.phase.lam=1.5",), "has to be at most 1"),
        (("phases.phase.objective={kind: grpo}",), "grpo predicts answers of a higher reward, and a phase of kind ppo"),
    ):
        with pytest.raises(SpecError, match=said):
            compile_spec(load_spec(tiny.write(tmp_path, text), [*own, *sets]).spec)


LEARNS = (
    "phases.phase.reward={kind: regex, pattern: e}",
    "phases.phase.budget=48 steps",
    "phases.phase.prompts_per_rollout=32",
    "phases.phase.micro_batch_size=32",
    "phases.phase.mini_batches=1",
    "phases.phase.epochs_per_rollout=2",
    "phases.phase.optimizer={kind: adamw, lr: 3e-2}",
    "phases.phase.adaptive_kl=null",
    "phases.phase.kl_coefficient=0.01",
)


def learned(folder: Path, *sets: str, steps: int = 48) -> list[float]:
    """The mean reward of the rollout of each step."""
    bench, rewards = Bench(folder, *LEARNS, *sets), list[float]()
    for step in range(steps):
        taken = bench.task.train(bench.trainer, step, bench.scalars(step, steps))
        rewards.append({metric.name: metric.value for metric in bench.task.metrics(taken)}["reward"])
    return rewards


def test_a_reward_rises(tmp_path: Path) -> None:
    """Answers of three characters of 24 kinds are to have an e."""
    rewards = learned(tmp_path)
    assert np.mean(rewards[:4]) < 0.4 < 0.8 < np.mean(rewards[-6:])


def test_nothing_is_dropped_where_probabilities_are_compared(tmp_path: Path) -> None:
    """So that the first step of a rollout finds the probabilities that its answers were drawn with; phases before and
    behind drop as the model says."""
    behind = "phases.behind={kind: sft, from: phase, mixture: {facts: 100%}, budget: 2 steps, micro_batch_size: 2}"
    bench = Bench(tmp_path, "model.dropout=0.5", behind, phase="phase")
    assert [bool(phase.model.drops) for phase in bench.plan.phases] == [True, False, True]
    taken = bench.task.train(bench.trainer, 0, bench.scalars(0, 30))
    assert taken.sums["approx_kl"] < 1e-9 and taken.sums["clip_low"] == taken.sums["clip_high"] == 0
    text, own = phase_kinds.spec_of("ppo")
    with pytest.raises(SpecError, match="all ratios would be noise"):
        compile_spec(
            load_spec(tiny.write(tmp_path, text), [*own, "phases.phase.adapter={kind: lora, dropout: 0.1}"]).spec
        )


@pytest.mark.parametrize(("epochs", "batches"), [(1, 1), (2, 1), (2, 3)])
def test_a_budget_that_reads_too_often_is_told_in_optimizer_steps_and_the_advice_holds(
    tmp_path: Path, epochs: int, batches: int
) -> None:
    text, own = phase_kinds.spec_of("ppo")
    few = ["data.sources.facts.max_epochs=2", "phases.phase.prompts_per_rollout=3", "phases.phase.micro_batch_size=12"]
    few += [f"phases.phase.epochs_per_rollout={epochs}", f"phases.phase.mini_batches={batches}"]

    def prepared(budget: str) -> Any:
        sets = [*own, *few, f"phases.phase.budget={budget}"]
        return prepare(compile_spec(load_spec(tiny.write(tmp_path, text), sets).spec))

    with pytest.raises(DataError) as refused:
        prepared("600 steps")
    (problem,) = refused.value.problems
    assert "the budget of 600 steps reads facts" in problem.message
    fitting = problem.hint.partition("lower the budget to ")[2].partition(",")[0]
    prepared(fitting)
    one_more = int(fitting.split()[0]) + epochs * batches
    with pytest.raises(DataError):
        prepared(f"{one_more} steps")
