"""A critic with a body of its own: what it begins as, what it learns, that the policy does not feel it, resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import reference
import tiny

from llmspec.backends.tensors import to_numpy
from llmspec.compiler import compile_spec, complete
from llmspec.compiler.critic import critic_plan
from llmspec.core.problems import SpecError
from llmspec.data.prepare import prepare
from llmspec.forecast.rollouts import LOG_PROBABILITIES, rollout
from llmspec.model.graph_memory import exact
from llmspec.parts.objectives.value_function import CRITIC
from llmspec.spec import load_spec
from llmspec.training.callbacks import Callback
from llmspec.training.critic import start_weights
from llmspec.training.run import set_up
from llmspec.training.stop import Stop
from llmspec.training.tasks.ppo import PPO
from llmspec.training.trainer import Trainer

QUIET = ("model.dropout=0", "tokenizer={kind: char, vocab: 24, max_unknown: 10%}", "phases.phase.temperature=1.3")
OWN = "phases.phase.objective={kind: ppo, value: {body: before, coefficient: 0.5, lr_multiplier: 3}}"


def compiled(folder: Path, *sets: str) -> Any:
    folder.mkdir(exist_ok=True)
    text, own = phase_kinds.spec_of("ppo")
    return compile_spec(load_spec(tiny.write(folder, text), [*own, *QUIET, *sets]).spec)


def inner(model: Any) -> str:
    """A matrix of the first layer."""
    return next(t.name for t in model.tensors if t.name.startswith("layers.0.") and t.role == "matrix")


class Bench:
    """The task and the trainer of a smallest phase, before its first step; nothing of it was trained."""

    def __init__(self, folder: Path, *sets: str, restored: dict[str, Any] | None = None) -> None:
        plan = compiled(folder, *sets)
        prepared = prepare(plan)
        self.plan = complete(plan, prepared.measured)
        self.phase = self.plan.phases[-1]
        self.context = set_up(self.plan, prepared, Callback(), Stop())
        random = np.random.default_rng(0)
        numbers = {t.name: random.normal(0, 0.3, t.shape).astype(np.float32) for t in self.plan.phases[0].model.tensors}
        numbers |= {"value_head.weight": numbers["final_norm.weight"][None] * 0.1, "value_head.bias": np.zeros(1, "f4")}
        self.numbers = numbers
        others = dict.fromkeys(self.phase.others, lambda: numbers)
        self.task: Any = PPO(self.context, self.phase)
        self.trainer = Trainer(self.plan, self.phase, self.context.backend, lambda t: numbers[t.name], None, others)
        if restored is not None:
            self.task.restore(*restored["task"], restored["step"])
        self.task.begin(self.trainer, others)

    def step(self, number: int) -> Any:
        factor = self.phase.phase.schedule.factor(number, self.phase.steps or 1)
        self.task.now = now = (factor, number + 1, self.phase.steps or 1, number + 1)
        taken = self.task.train(self.trainer, number, list(self.trainer.steps.updates.numbers(*now)))
        self.task.step_taken(number, taken)
        return taken


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("critic"), OWN)


def test_it_begins_as_a_copy_and_learns_apart_from_the_policy(bench: Bench) -> None:
    """The first step: values of a model like the policy's own, in float64; a loss and a gradient of its own; and the
    policy's tensors moved by its own loss alone."""
    task, critic = bench.task, bench.task.critic
    assert not any("value_head" in t.name for t in bench.phase.model.tensors)
    before = {name: to_numpy(t).copy() for name, t in critic.trainer.weights.items()}
    for name in critic.trainer.weights:
        if not name.startswith("value_head."):
            assert np.array_equal(before[name], bench.numbers[name])
    taken = bench.step(0)
    made, wide = task.made, reference.double(before)
    for i, n in enumerate(made.lengths.tolist()):
        ids = np.array([*made.prompt(i).ids, *made.tokens[i, :n].tolist()])
        states = reference.row_hidden(critic.model, wide, ids[:-1])[len(made.prompt(i).ids) - 1 :]
        values = states @ wide["value_head.weight"][0] + wide["value_head.bias"]
        np.testing.assert_allclose(made.by_token["values"][i, :n], values, rtol=1e-3, atol=1e-5)
    which = task.which(0)
    here, gains = made.drawn[which], task.gains(made)
    error = 0.5 * np.square(made.by_token["values"] - gains.returns)[which][here]
    assert taken.sums["value_loss"] / here.sum() == pytest.approx(error.mean(), rel=1e-4)
    assert taken.sums["loss"] == pytest.approx(
        taken.sums["policy_loss"] / here.sum() + 0.5 * error.mean(), rel=1e-3, abs=1e-5
    )
    assert taken.sums["value_norm"] > 0 and not np.isclose(taken.sums["value_norm"], taken.norm)
    told = {m.name: m.value for m in task.metrics(taken)}
    assert told["value_norm"] == taken.sums["value_norm"] and told["value_clip_fraction"] == 0
    after = {name: to_numpy(t) for name, t in critic.trainer.weights.items()}
    assert all(not np.array_equal(after[n], before[n]) for n in ("value_head.weight", inner(critic.model)))
    lr = bench.phase.phase.optimizer.lr * bench.phase.phase.schedule.factor(0, bench.phase.steps or 1)
    if bench.phase.phase.optimizer.kind == "adamw":  # the first step of Adam is the learning rate
        moved = np.abs(after["value_head.weight"] - before["value_head.weight"]).max()
        assert moved == pytest.approx(3 * lr, rel=0.2)


def test_gradients_are_those_of_the_formula_in_float64(tmp_path: Path) -> None:
    """½ · coefficient · mean (V − R)² over the drawn tokens of a step, along a direction of each of two tensors."""
    made_by = Bench(tmp_path, OWN)
    task, critic = made_by.task, made_by.task.critic
    task.made, task.rollout = task.roll(made_by.trainer, 0), 0
    task.batches(0)
    (arrays,) = task.critic_batches()
    trainer, made, which = critic.trainer, task.made, task.which(0)
    inputs = trainer._inputs(arrays, float(arrays["loss_weights"].sum()), 0, 0, {})
    _, found = trainer.steps.gradients(trainer.weights, trainer.tables, inputs)
    gradients = {name: to_numpy(g) for name, g in zip(trainer.steps.trained, found, strict=True)}
    wide, returns = reference.double(trainer.weight_arrays()), task.gains(made).returns

    def loss(weights: dict[str, Any]) -> float:
        errors = []
        for i in which.tolist():
            n, prompt = int(made.lengths[i]), list(made.prompt(i).ids)
            ids = np.array([*prompt, *made.tokens[i, :n].tolist()])
            states = reference.row_hidden(critic.model, weights, ids[:-1])[len(prompt) - 1 :]
            values = states @ weights["value_head.weight"][0] + weights["value_head.bias"]
            errors += list(np.square(values - returns[i, :n]))
        return 0.5 * 0.5 * float(np.mean(errors))

    for name in ("value_head.weight", inner(critic.model)):
        way = np.random.default_rng(3).normal(0, 1, wide[name].shape)
        ends = [loss({**wide, name: wide[name] + sign * 1e-5 * way}) for sign in (1, -1)]
        assert (gradients[name] * way).sum() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-3)


def test_a_larger_value_loss_changes_no_tensor_of_the_policy(tmp_path: Path) -> None:
    benches = [Bench(tmp_path / x, OWN.replace("0.5", x)) for x in ("0.5", "5.0")]
    taken = [bench.step(0) for bench in benches]
    assert taken[0].norm == taken[1].norm and taken[1].sums["value_norm"] > 5 * taken[0].sums["value_norm"]
    policies, critics = ([b.trainer.weights for b in benches], [b.task.critic.trainer.weights for b in benches])
    assert all(np.array_equal(to_numpy(policies[0][n]), to_numpy(policies[1][n])) for n in policies[0])
    assert not all(np.array_equal(to_numpy(critics[0][n]), to_numpy(critics[1][n])) for n in critics[0])


def test_what_is_restored_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Also within a rollout: weights and optimizer of the critic lie among the task's tensors."""
    whole, half = Bench(tmp_path / "a", OWN), Bench(tmp_path / "b", OWN)
    (half_steps, steps) = (3, 6)
    for number in range(steps):
        whole.step(number)
    for number in range(half_steps):
        half.step(number)
    kept = {name: np.array(a) for name, a in half.task.tensors().items()}
    assert {name: a.shape for name, a in kept.items()} == dict(half.task.tensor_shapes())
    assert any(name.startswith(f"{CRITIC}/") and ":" in name for name in kept)
    state = json.loads(json.dumps(half.task.state(half_steps)))
    again = Bench(tmp_path / "c", OWN, restored={"task": (state, kept), "step": half_steps})
    policy, optimizer = half.trainer.weight_arrays(), half.trainer.state_arrays()
    again.trainer = Trainer(
        again.plan,
        again.phase,
        again.context.backend,
        lambda t: policy[t.name],
        optimizer,
        dict.fromkeys(again.phase.others, lambda: again.numbers),
    )
    for number in range(half_steps, steps):
        again.step(number)
    for name, array in whole.task.tensors().items():
        assert np.array_equal(array, again.task.tensors()[name]), name
    for name, array in whole.trainer.weight_arrays().items():
        assert np.array_equal(array, again.trainer.weight_arrays()[name]), name


def test_a_reward_models_head_says_values_first(tmp_path: Path) -> None:
    """In units of the scaled reward; a body without such a head begins with one that is drawn."""
    plan = compiled(tmp_path, OWN)
    critic = critic_plan(plan.phases[-1])
    assert critic is not None
    body, random = plan.phases[0].model, np.random.default_rng(1)
    known = {t.name: random.normal(0, 1, t.shape).astype(np.float32) for t in body.tensors}
    plain = start_weights(critic.model, body, known, 7)
    assert np.array_equal(plain[inner(body)], known[inner(body)])
    from llmspec.compiler.phase_model import with_heads
    from llmspec.parts.heads.score import Score

    judge = with_heads(body, {"reward": Score(pooling="last", mean=2.0, std=3.0)})
    known |= {t.name: random.normal(0, 1, t.shape).astype(np.float32) for t in judge.tensors if "reward" in t.name}
    found = start_weights(critic.model, judge, known, 7, scale=0.5)
    np.testing.assert_allclose(found["value_head.weight"], known["reward_head.weight"] * 1.5, rtol=1e-6)
    np.testing.assert_allclose(found["value_head.bias"], known["reward_head.bias"] * 1.5 + 1.0, rtol=1e-6)
    assert not np.allclose(plain["value_head.weight"], found["value_head.weight"])


def test_memory_time_and_products_count_it(tmp_path: Path) -> None:
    from test_rollout_estimates import MEMORY, RATES, estimated, planned

    value = {"kind": "ppo", "value": {"body": "judge"}}
    shared, own = planned("ppo", micro_batch_size=16), planned("ppo", micro_batch_size=16, objective=value)
    less, more = shared.phase("last"), own.phase("last")
    assert less.memory is not None and more.memory is not None and more.memory.optimizer > 1.5 * less.memory.optimizer
    found = exact(own.model_copy(update={"phases": (more,)}))["last"]
    held = (
        more.memory.peak
        - more.memory.decoding
        - sum(4 * o.model.parameters for r, o in more.others.items() if r == "reward")
    )
    assert held == pytest.approx(sum(found.values()), rel=0.1)
    assert estimated(own).parts["update"] > 1.2 * estimated(shared).parts["update"]
    passes = (rollout(p, RATES, MEMORY).parts[LOG_PROBABILITIES] for p in (less, more))
    assert 1.1 * next(passes) < next(passes)
    assert (more.flops or 0) > 1.2 * (less.flops or 1)


MISTAKES = {
    "an unknown phase": ("{body: befoer}", "before"),
    "itself": ("{body: phase}", "without it"),
    "a rate without a body": ("{lr_multiplier: 2}", "value_head.*: 2"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_with_what_to_write(name: str, tmp_path: Path) -> None:
    value, hint = MISTAKES[name]
    with pytest.raises(SpecError) as found:
        compiled(tmp_path, f"phases.phase.objective={{kind: ppo, value: {value}}}")
    assert hint in str([(p.message, p.hint) for p in found.value.problems])


def test_a_body_beside_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="trained as a whole"):
        compiled(
            tmp_path,
            OWN,
            "phases.before.adapter={kind: lora}",
            "phases.first={kind: pretrain, mixture: {facts: 100%}, budget: 2 steps}",
            "phases.before.from=first",
        )
