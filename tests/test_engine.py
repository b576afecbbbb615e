"""The engine: whatever a task keeps lies in its checkpoints, and metrics of any name and unit come through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_explain import printed
from test_going_back import Halting, trained

from llmspec.core.metrics import Metric
from llmspec.core.problems import RunError
from llmspec.explain.run import explain_run
from llmspec.runs import checkpoint
from llmspec.runs.run import RunFolder
from llmspec.training.stop import Interrupted
from llmspec.training.tasks import TASKS
from llmspec.training.tasks.base import Sample, Validation
from llmspec.training.tasks.pretrain import Pretrain
from llmspec.training.trainer import StepTaken, Trainer

EMBEDDING = "embed_tokens.weight"


class Cautious(Pretrain):
    """Learns more slowly the higher its loss has been, and counts how often it did; keeps a mean of its embeddings."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.slowed, self.loss = 0, np.zeros(1, np.float32)
        self.mean = np.zeros(self.tensor_shapes()["mean"], np.float32)

    def train(self, trainer: Trainer, step: int, scalars: Sequence[float]) -> StepTaken:
        slower = float(self.loss[0]) > 2.0
        self.slowed += slower
        factor = 1 / (1 + float(self.loss[0]) + float(np.abs(self.mean).mean()) + 0.01 * self.slowed)
        taken = trainer.step(self.batches(step), (scalars[0] * factor, *scalars[1:]), step)
        self.loss[0] = 0.9 * self.loss[0] + 0.1 * taken.sums["loss"]
        self.mean = (0.9 * self.mean + 0.1 * trainer.weight_arrays()[EMBEDDING]).astype(np.float32)
        return taken

    def metrics(self, taken: StepTaken) -> tuple[Metric, ...]:
        return (*super().metrics(taken), Metric("slowed", self.slowed, "steps"))

    def validate(self, trainer: Trainer) -> Validation:
        accuracy = (
            Metric("accuracy", 0.25, "", "facts", "higher"),
            Metric("loss", 2.5, "nats/answer", "facts", "lower"),
        )
        return Validation(accuracy, 1)

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        yield Sample("so far", f"slowed {self.slowed} times", "end")

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        table = next(t for t in self.context.plan.model.tensors if t.name == EMBEDDING)
        return {"loss": (1,), "mean": table.shape}

    def state(self, step: int) -> dict[str, Any]:
        return {**super().state(step), "slowed": self.slowed}

    def tensors(self) -> dict[str, Any]:
        return {"loss": self.loss, "mean": self.mean}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        super().restore(state, tensors, step)
        self.slowed, self.loss, self.mean = state["slowed"], tensors["loss"].copy(), tensors["mean"]


class Forgetful(Cautious):
    """The same without its state."""

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        Pretrain.restore(self, state, tensors, step)


ONE = ("phases.second=null", "phases.first.sample_every=2 steps")


def run(folder: Path, kind: type[Cautious], monkeypatch: pytest.MonkeyPatch, stop: int = 0) -> dict[str, Any]:
    """What a run leaves, bit by bit; with `stop` it is ended after that step, and goes on."""
    monkeypatch.setitem(TASKS, "pretrain", kind)
    if stop:
        with pytest.raises(Interrupted):
            trained(folder, *ONE, watcher=Halting("first", stop))
    trained(folder, *ONE)
    place = folder / "run/first"
    newest, _ = checkpoint.newest(place)
    assert newest is not None
    files = (checkpoint.WEIGHTS, checkpoint.STATE, checkpoint.TASK, checkpoint.CURSOR)
    found = {name: (newest.folder / name).read_bytes() for name in files}
    return found | {name: (place / name).read_bytes() for name in ("metrics.jsonl", "samples.jsonl")}


def test_what_a_task_keeps_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in ("straight", "stopped", "forgetful")]
    for folder in folders:
        folder.mkdir()
    straight = run(folders[0], Cautious, monkeypatch)
    assert run(folders[1], Cautious, monkeypatch, stop=4) == straight
    forgot = run(folders[2], Forgetful, monkeypatch, stop=4)
    assert {name for name in forgot if forgot[name] != straight[name]} == set(straight)


def test_damaged_state_of_a_task_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "pretrain", Cautious)
    trained(tmp_path, *ONE)
    newest, _ = checkpoint.newest(tmp_path / "run/first")
    assert newest is not None
    path = newest.folder / checkpoint.TASK
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    _, notices = checkpoint.newest(tmp_path / "run/first")
    assert any(checkpoint.TASK in notice and "damaged" in notice for notice in notices)
    path.unlink()
    with pytest.raises(checkpoint.Damaged):
        newest.task({"loss": (1,)})


def test_metrics_of_any_name_and_unit_are_recorded_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "pretrain", Cautious)
    heard = trained(tmp_path, *ONE)
    assert [m.name for m in heard.steps[-1].metrics] == ["loss", "slowed"]
    assert [m.label for m in heard.metrics[-1][1]] == ["accuracy", "nats/answer"]
    report = explain_run(RunFolder.open(tmp_path / "run"))
    (phase,) = report.phases
    assert [(m.name, m.unit) for m in phase.metrics] == [("loss", "nats/token"), ("slowed", "steps")]
    assert len(phase.metrics[1].curve.values) == phase.steps
    assert phase.validation[0].scores[-1].main.value == 0.25
    shown = printed(report, 100)
    assert "accuracy" in shown and "0.2500" in shown and "nats/answer" in shown and "slowed" in shown


def test_a_checkpoint_of_another_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Cautious):
        def state(self, step: int) -> dict[str, Any]:
            return super().state(step - 1)

    monkeypatch.setitem(TASKS, "pretrain", Elsewhere)
    with pytest.raises(Interrupted):
        trained(tmp_path, *ONE, watcher=Halting("first", 4))
    with pytest.raises(RunError, match="its place in the data is not after step 4"):
        trained(tmp_path, *ONE)
