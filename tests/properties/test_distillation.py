"""Distillation: loss, what is counted and gradients are those of the formulas; what cannot teach is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import reference
import tiny

from llmspec.backends.backend import backend
from llmspec.compiler import compile_spec
from llmspec.compiler.plan import OtherPlan, Plan
from llmspec.core.problems import SpecError
from llmspec.data.inputs import BatchInputs
from llmspec.data.layout import blank
from llmspec.model.graph_memory import exact
from llmspec.model.weights import draw
from llmspec.parts.objectives.distillation import Distillation
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec
from llmspec.training.trainer import Trainer

EPS = 2.0**-23
STUDENT = {"context": 12, "d_model": 16, "layers": 1, "attention": {"heads": 2}, "mlp": {"d_ff": 24}}
LARGER = {
    **STUDENT,
    "context": 20,
    "d_model": 24,
    "layers": 2,
    "mask": {"kind": "causal", "window": 5},
    "heads": {"lm": {"kind": "lm", "tied": False, "softcap": 3.0}},
}
ROWS = 3


def compiled(model: dict[str, Any], objective: dict[str, Any] | None = None, **phase: Any) -> Plan:
    """A phase `first`, and with an objective one that it teaches."""
    common = {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "4 steps", "micro_batch_size": ROWS}
    stages = {"first": common}
    if objective is not None:
        taught = {"kind": "distillation", "teacher": "first", **objective}
        stages["p"] = {**common, "max_grad_norm": None, "optimizer": {"kind": "sgd", "lr": 1.0}, **phase}
        stages["p"]["objective"] = taught
    spec = {
        "name": "taught",
        "device": "CPU",
        "model": model,
        "tokenizer": {"kind": "char", "vocab": 24},
        "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
        "phases": stages,
    }
    return compile_spec(Spec.model_validate_json(json.dumps(spec)))


def weights_of(plan: Plan, seed: int) -> dict[str, np.ndarray]:
    """Larger than they start, so that distributions are far apart."""
    return {t.name: draw(t, seed) * (8 if t.role in ("matrix", "embedding") else 1) for t in plan.model.tensors}


CASES = {
    "forward": {"temperature": 2.0, "teacher_share": 0.75},
    "reverse": {"divergence": "reverse", "temperature": 0.5, "teacher_share": 0.25},
    "teacher alone": {"teacher_share": 1.0},
    "drawn to even logits": {"z_loss": 0.01},
    "smoothed": {"label_smoothing": 0.1, "temperature": 3.0},
}


def compare(objective: dict[str, Any], plain: bool = False, part: type[Distillation] = Distillation) -> None:
    """One step of a small student of a larger teacher, two documents a row, some of whose targets count."""
    plan, theirs = compiled(STUDENT, objective, document_mask=True), compiled(LARGER)
    phase = plan.phase("p")
    made_part = part(**{k: v for k, v in phase.phase.objective if k != "kind"})
    phase = phase.model_copy(
        update={
            "others": {"teacher": OtherPlan(model=theirs.model)},
            "phase": phase.phase.model_copy(update={"objective": made_part}),
        }
    )
    w, teacher_w = weights_of(plan, 2), weights_of(theirs, 3)
    dice = np.random.default_rng(5)
    made = blank(ROWS, 12, 0)
    made.tokens[:], made.targets[:] = dice.integers(7, 24, (2, ROWS, 12))
    made.filled[:] = 12
    made.weights[:] = dice.integers(0, 2, (ROWS, 12))
    made.documents[:] = np.arange(12) >= 7
    made.positions[:] = np.where(np.arange(12) >= 7, np.arange(12) - 7, np.arange(12))
    read = BatchInputs(plan.model, phase.phase, plan.tokenizer.meanings(), (1,), others=phase.others)(made, 0)
    trainer = Trainer(plan, phase, backend("CPU", plain), lambda t: w[t.name], others={"teacher": lambda: teacher_w})

    taught = reference.logits(theirs.model, teacher_w, made.tokens, made.documents).reshape(ROWS * 12, -1)
    counts = made.weights.astype(np.float64).reshape(-1)
    share, heat = made_part.teacher_share, made_part.temperature

    def formulas(w: dict[str, np.ndarray], validated: bool = False) -> tuple[float, float, float]:
        """(loss, cross entropy, divergence), each the mean over what counts; what is `validated` is not smoothed, nor
        drawn to even logits."""
        own = reference.logits(plan.model, w, made.tokens, made.documents).reshape(ROWS * 12, -1)
        pair = (taught, own) if made_part.divergence == "forward" else (own, taught)
        kl = float((heat**2 * reference.divergence(*pair, heat) * counts).sum() / counts.sum())
        smoothing = 0.0 if validated else made_part.label_smoothing
        entropy = float((reference.cross_entropy(own, made.targets.reshape(-1), smoothing) * counts).sum())
        entropy /= counts.sum()
        log_z = np.log(np.exp(own).sum(-1))
        even = 0.0 if validated else made_part.z_loss * float((log_z**2 * counts).sum() / counts.sum())
        return share * kl + (1 - share) * entropy + even, entropy, kl

    wide = reference.double(w)
    names = ("loss", "cross_entropy", "divergence")
    wanted, held_out = (dict(zip(names, formulas(wide, validated), strict=True)) for validated in (False, True))
    assert wanted["divergence"] > 0.05, "teacher and student differ"
    found = trainer.evaluate(read)
    assert {n: v / counts.sum() for n, v in found.items()} == pytest.approx(held_out, rel=300 * EPS)
    taken = trainer.step([read], (1.0,), 0)
    assert taken.sums == pytest.approx(wanted, rel=300 * EPS) and taken.targets == np.count_nonzero(counts)
    gradients = {n: wide[n] - a.astype(np.float64) for n, a in trainer.weight_arrays().items()}
    size = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    for seed in range(3):
        way = {n: np.random.default_rng([seed, i]).standard_normal(a.shape) for i, (n, a) in enumerate(wide.items())}
        ahead, back = (formulas({n: a + s * 1e-5 * way[n] for n, a in wide.items()})[0] for s in (1, -1))
        slope = sum(float((gradients[n] * way[n]).sum()) for n in wide)
        assert slope == pytest.approx((ahead - back) / 2e-5, abs=5e-4 * size)
    before = {n: a.copy() for n, a in teacher_w.items()}
    after = {n.removeprefix("teacher/"): t.numpy() for n, t in trainer.tables.items() if n.startswith("teacher/")}
    assert all((after[n] == a).all() for n, a in before.items()), "nothing of the teacher changes"


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_the_formulas(case: str) -> None:
    compare(CASES[case])


def test_the_plain_backend_says_the_same() -> None:
    compare(CASES["forward"], plain=True)


class WrongWay(Distillation):
    """forward where reverse is meant."""

    kind: Literal["wrong_way"] = "wrong_way"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        turned = {"forward": "reverse", "reverse": "forward"}[self.divergence]
        return Distillation(**{**{k: v for k, v in self if k != "kind"}, "divergence": turned}).build(dims)


class NotSquared(Distillation):
    """The divergence is not multiplied by the square of the temperature."""

    kind: Literal["not_squared"] = "not_squared"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        right, share = super().build(dims), self.teacher_share

        def loss(*given: Any) -> Any:
            found = right(*given)
            kl = found["divergence"] / self.temperature**2
            return {**found, "loss": share * kl + (1 - share) * found["cross_entropy"], "divergence": kl}

        return loss


class AllCount(Distillation):
    """Every token's divergence counts, also of those that are not supervised."""

    kind: Literal["all_count"] = "all_count"  # type: ignore[assignment]

    def build(self, dims: Any) -> Any:
        right = super().build(dims)

        def loss(ops: Any, outputs: Any, inputs: Any) -> Any:
            w = inputs["loss_weights"]
            even = {**inputs, "loss_weights": w * 0 + w.sum() / w.numel()}
            return right(ops, outputs, even)

        return loss


@pytest.mark.parametrize("wrong", [WrongWay, NotSquared, AllCount])
def test_what_is_wrong_is_seen(wrong: type[Distillation]) -> None:
    with pytest.raises(AssertionError):
        compare(CASES["forward"], part=wrong)


# -- the plan --------------------------------------------------------------------------------------------------------
def test_the_teacher_counts_in_memory_operations_and_key() -> None:
    plan = compiled(STUDENT, CASES["forward"])
    phase, alone = plan.phase("p"), plan.phase("first")
    assert phase.others["teacher"].phase == "first" and phase.others["teacher"].model == alone.model
    assert phase.memory is not None and alone.memory is not None and phase.flops and alone.flops
    found = exact(plan)["p"]
    assert phase.memory.others == pytest.approx(found["others"], rel=0.02)
    assert alone.flops * 1.2 < phase.flops < alone.flops * 1.5, "a pass forward more"
    other = compiled(STUDENT, {**CASES["forward"], "temperature": 1.5})
    assert other.phase("p").key != phase.key and other.phase("first").key == alone.key


def test_memory_is_that_of_the_graphs() -> None:
    path, more = tiny.ROOT / "specs/quickstart.yaml", ["device=CPU", "memory_limit=64 GiB", "model.layers=2"]
    taught = "phases.chat.objective={kind: distillation, teacher: pretrain, temperature: 2}"
    plan = compile_spec(load_spec(path, [*more, taught]).spec)
    memory, found = plan.phase("chat").memory, exact(plan)["chat"]
    assert memory is not None
    assert memory.peak - memory.decoding == pytest.approx(sum(found.values()), rel=0.15)


def test_another_teacher_is_another_phase(tmp_path: Path) -> None:
    """The key of what is taught follows the teacher's own."""
    keys = [spec(tmp_path, ("budget: 24 steps", f"budget: {n} steps")).phase("student").key for n in (24, 25, 24)]
    assert keys[0] != keys[1] and keys[0] == keys[2]


TAUGHT = """\
  student:
    kind: pretrain
    mixture: {docs: 100%}
    budget: 4 steps
    micro_batch_size: 4
    objective: {kind: distillation, teacher: pretrain, temperature: 2}
"""


def spec(folder: Path, *changes: tuple[str, str], first: bool = False) -> Plan:
    """The tiny spec with a phase that its first one teaches."""
    text = (
        tiny.TINY.replace("phases:\n", "phases:\n" + TAUGHT)
        if first
        else tiny.TINY.replace("decoding:", TAUGHT + "decoding:")
    )
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return compile_spec(load_spec(tiny.write(folder, text)).spec)


WRONG = {
    "no such phase": ("teacher: pretrain", "teacher: pretrian", "no phase is called `pretrian`", "did you mean"),
    "itself": ("teacher: pretrain", "teacher: student", "the teacher of `student` is `student`", "without it"),
    "in a circle": (
        "    budget: 24 steps",
        "    budget: 24 steps\n    objective: {kind: distillation, teacher: student}",
        "the teacher of `pretrain` is `student`, which needs `pretrain`",
        "without it",
    ),
    "no folder": ("teacher: pretrain", "teacher: {modle: x}", "modle", "model"),
    "cold": ("temperature: 2", "temperature: 0", "temperature", ""),
    "share": ("temperature: 2", "teacher_share: 1.5", "teacher_share", ""),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_teach_is_refused(name: str, tmp_path: Path) -> None:
    old, new, message, hint = WRONG[name]
    with pytest.raises(SpecError) as error:
        spec(tmp_path, (old, new))
    problems = error.value.problems
    assert any(message in str(p) and hint in p.hint for p in problems), [str(p) for p in problems]
    assert all(p.mark for p in problems)


def test_phases_stand_after_their_teachers(tmp_path: Path) -> None:
    plan = spec(tmp_path, first=True)
    assert [p.name for p in plan.phases] == ["pretrain", "student", "chat"]
    assert Plan.parse(json.dumps(plan.dump())) == plan
