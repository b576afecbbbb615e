"""When a phase ends before its budget, and which checkpoint it leaves: the same however often it was stopped."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import phase_kinds
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_explain import printed
from test_going_back import Halting

from llmspec.compiler import check_sections, compile_spec
from llmspec.core.metrics import Metric
from llmspec.core.problems import RunError
from llmspec.core.units import Budget
from llmspec.explain.run import explain_run
from llmspec.parts.phases.course import EarlyStopping, Keep
from llmspec.parts.phases.pretrain import Pretrain
from llmspec.runs import checkpoint
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec, read_spec
from llmspec.training.callbacks import Recorder
from llmspec.training.course import Course
from llmspec.training.run import run
from llmspec.training.stop import Interrupted

PHASES = tiny.TINY.index("phases:")
SPEC = (
    tiny.TINY[: tiny.TINY.index("    docs:")]
    + tiny.TINY[tiny.TINY.index("    facts:") : PHASES]
    + """\
phases:
  first:
    kind: pretrain
    mixture: {facts: 100%}
    budget: 40 steps
    micro_batch_size: 2
    optimizer: {kind: adamw, lr: 5e-2}
    schedule: {kind: constant}
    evaluate_every: 2 steps
    checkpoint_every: 5 steps
    sample_every: 0
    early_stopping: {patience: 3}
    keep: {last: 1, best: 2}
  second: {kind: sft, from: first, mixture: {facts: 100%}, budget: 2 steps, micro_batch_size: 2, prompts: [one]}
decoding: {max_tokens: 4}
"""
)
"""Learns a few words by heart at a rate at which validation soon gets worse."""


def trained(folder: Path, *sets: str, watcher: Recorder | None = None) -> Recorder:
    folder.mkdir(exist_ok=True)
    watcher = watcher or Recorder()
    run(compile_spec(load_spec(tiny.write(folder, SPEC), sets).spec), folder / "run", watcher=watcher)
    return watcher


def left(folder: Path) -> dict[str, bytes]:
    """All that must be equal: every checkpoint, rows, notes but for times."""
    found = {}
    for phase in ("first", "second"):
        for path in sorted((folder / "run" / phase).glob("step_*/*")):
            found[str(path.relative_to(folder))] = path.read_bytes()
        found[f"{phase} metrics"] = (folder / "run" / phase / "metrics.jsonl").read_bytes()
        about = json.loads((folder / "run" / phase / "phase.json").read_text())
        found[f"{phase} notes"] = json.dumps({k: about.get(k) for k in ("ended", "best", "done", "key")}).encode()
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    folder = tmp_path_factory.mktemp("straight")
    return folder, trained(folder)


def losses(heard: Recorder) -> dict[int, float]:
    """Of the first phase: step -> validation loss."""
    found: dict[int, float] = {}
    for step, metrics in heard.metrics:
        if step in found:
            break
        found[step] = metrics[0].value
    return found


def test_it_ends_and_leaves_the_best(straight: tuple[Path, Recorder]) -> None:
    folder, heard = straight
    by_step = losses(heard)
    last = max(by_step)
    order = sorted(by_step, key=lambda s: (by_step[s], s))
    assert last < 40 and last == order[0] + 6, "it ends three validations after the best"
    there = {p.name for p in (folder / "run/first").glob("step_*")}
    assert there == {f"step_{s}" for s in {last, *order[:2]}}
    place = RunFolder(folder / "run")
    name, weights, notices = place.weights(place.plan(), "first")
    best = checkpoint.Checkpoint(folder / f"run/first/step_{order[0]}", order[0])
    expected = best.weights({n: w.shape for n, w in weights.items()})
    assert all(np.array_equal(weights[n], expected[n]) for n in expected)
    assert name == "first" and any(f"step {order[0]}, the best by loss" in n for n in notices)
    assert any(f"ends after step {last} of 40" in n for n in heard.notices)
    assert any(f"leaves the weights of step {order[0]}" in n for n in heard.notices)
    report = explain_run(RunFolder.open(folder / "run"))
    assert report.phases[0].ended and f"step {order[0]}" in report.phases[0].best
    shown = printed(report, 100)
    assert "ended before its budget" in shown and "not as planned" not in shown


def test_the_next_phase_starts_from_the_best(straight: tuple[Path, Recorder], tmp_path: Path) -> None:
    """A second phase that cannot learn shows what it has started from."""
    folder, heard = straight
    still = ("phases.second.optimizer={kind: sgd, lr: 1e-30}",)
    trained(tmp_path / "still", *still)
    by_step = losses(heard)
    best = min(by_step, key=lambda s: (by_step[s], s))
    first = (folder / f"run/first/step_{best}" / checkpoint.WEIGHTS).read_bytes()
    assert (tmp_path / "still/run/second/step_2" / checkpoint.WEIGHTS).read_bytes() == first


def test_the_same_however_often_it_is_stopped(straight: tuple[Path, Recorder], tmp_path: Path) -> None:
    folder, heard = straight
    last = max(losses(heard))
    chance = random.Random(12)
    for step in sorted(chance.sample(range(1, last), 3)):
        with pytest.raises(Interrupted):
            trained(tmp_path, watcher=Halting("first", step))
    trained(tmp_path)
    assert left(tmp_path) == left(folder)
    again = trained(tmp_path)
    assert again.taken == ["first", "second"], "a phase that ended early is not trained again"


def test_a_lost_best_is_said(straight: tuple[Path, Recorder], tmp_path: Path) -> None:
    import shutil

    folder, heard = straight
    shutil.copytree(folder / "run", tmp_path / "run")
    by_step = losses(heard)
    best = min(by_step, key=lambda s: (by_step[s], s))
    path = tmp_path / f"run/first/step_{best}" / checkpoint.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    place = RunFolder(tmp_path / "run")
    _, _, notices = place.weights(place.plan(), "first")
    assert any("best checkpoint" in n and "is damaged" in n and "is used instead" in n for n in notices)
    with pytest.raises(RunError, match="cannot be read any more"):
        trained(tmp_path, "phases.second.optimizer.lr=1e-5")


values = st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), min_size=1, max_size=12)


@given(values, st.integers(1, 4), st.sampled_from([0.0, 1.5]), st.integers(1, 3), st.booleans(), st.integers(0, 12))
def test_the_law_of_patience(
    found: list[float], patience: int, min_delta: float, best: int, higher: bool, cut: int
) -> None:
    """Beside a plain reading of what it says; and the same when it is saved and goes on anywhere."""
    name = "accuracy" if higher else "loss"
    phase = Pretrain.model_construct(
        budget=Budget(1.0, "steps"),
        early_stopping=EarlyStopping(metric=name, patience=patience, min_delta=min_delta),
        keep=Keep(best=best),
    )
    course = Course(phase)
    sign = -1 if higher else 1
    for i, value in enumerate(found, 1):
        if i == cut:
            saved, course = course.dump(), Course(phase)
            course.restore(json.loads(json.dumps(saved)))
        course.validated(i, [Metric(name, value, "", "a", "higher" if higher else "lower")])
        seen = [sign * v for v in found[:i]]
        top, waited = seen[0], 0
        for v in seen[1:]:
            top, waited = (v, 0) if v < top - min_delta else (top, waited + 1)
        assert course.over == (waited >= patience)
        assert [b.step for b in course.best] == [s + 1 for s in sorted(range(i), key=lambda s: (seen[s], s))[:best]]
        if course.over:
            assert course.why().endswith("for one validation" if patience == 1 else f"for {patience} validations")
            break


def test_a_mean_over_sources_and_a_number_that_is_none() -> None:
    course = Course(
        Pretrain.model_construct(budget=Budget(1.0, "steps"), early_stopping=EarlyStopping(patience=2), keep=None)
    )
    both = [Metric("loss", 2.0, "nats/token", s, "lower") for s in ("a", "b")]
    assert course.validated(1, both) and course.best[0].value == 2.0
    assert not course.validated(2, both[:1], ["b"]), "without one of its sources there is no mean"
    with pytest.raises(RunError, match="gave no `loss`"):
        course.validated(3, [Metric("accuracy", 1.0, "", "a", "higher")])


@pytest.mark.parametrize(
    ("key", "value", "path", "said"),
    [
        ("early_stopping", "{metric: acuracy}", "early_stopping.metric", "it gives `loss`, `perplexity`"),
        ("early_stopping", "{metric: perplexiti}", "early_stopping.metric", "did you mean `perplexity`?"),
        ("early_stopping", "{source: fact}", "early_stopping.source", "did you mean `facts`?"),
        ("keep", "{best: 1, metric: tokens}", "keep.metric", "it gives"),
        ("keep", "{metric: loss, best: 0}", "keep.metric", "add `best: 1`"),
        ("evaluate_every", "0", "evaluate_every", "evaluate_every: 5%"),
    ],
)
def test_what_cannot_choose_is_refused(tmp_path: Path, key: str, value: str, path: str, said: str) -> None:
    found = read_spec(tiny.write(tmp_path, SPEC), [f"phases.first.{key}={value}"])
    (problem,) = [*found.problems, *check_sections(found.sections, found.base)]
    assert ".".join(map(str, problem.path)) == f"phases.first.{path}"
    assert said in problem.hint


@pytest.mark.parametrize("kind", ["grpo", "ppo", "best_of_n", "dpo", "kto", "orpo", "reward", "classify", "pretrain"])
@pytest.mark.parametrize("keys", ["early_stopping: {}", "keep: {best: 1}"])
def test_what_is_best_has_a_meaning_in_every_kind(tmp_path: Path, kind: str, keys: str) -> None:
    text, own = phase_kinds.spec_of(kind, keys)
    found = load_spec(tiny.write(tmp_path, text), own).spec.phases["phase"]
    assert found.judged is not None and found.judged.metric in found.measured()
    assert found.judged.metric == ("reward" if found.prompted else "loss")


def test_without_text_for_validation_it_is_refused(tmp_path: Path) -> None:
    found = read_spec(tiny.write(tmp_path, SPEC), ["data.sources.facts.validation=null"])
    problems = [*found.problems, *check_sections(found.sections, found.base)]
    assert {p.path[-1] for p in problems} == {"early_stopping", "keep"}


def test_a_source_with_a_mistake_is_no_second_one(tmp_path: Path) -> None:
    found = read_spec(tiny.write(tmp_path, SPEC), ["data.sources.facts.kind=fils"])
    (problem,) = [*found.problems, *check_sections(found.sections, found.base)]
    assert ".".join(map(str, problem.path)) == "data.sources.facts.kind"


def test_how_many_stay_trains_nothing_again(tmp_path: Path) -> None:
    spec = tiny.write(tmp_path, SPEC)

    def key(*sets: str) -> str:
        return compile_spec(load_spec(spec, sets).spec).phases[0].key

    assert key("phases.first.keep.last=3") == key() == key("phases.first.keep.best=1")
    assert key("phases.first.evaluate_every=4 steps") != key(), "it chooses among other checkpoints"
    assert key("phases.first.keep.metric=perplexity") != key()
