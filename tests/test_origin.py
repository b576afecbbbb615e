"""A loss that is no number is told with its step, and when the run comes to it again with where it began."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_going_back import trained

from llmspec.backends.tensors import tensors_from_numpy, to_numpy
from llmspec.core.problems import RunError
from llmspec.training.trainer import Trainer

ONE = ("phases.second=null", "model.layers=3", "phases.first.checkpoint_every=1 steps")


def failed(folder: Path, *sets: str) -> Any:
    with pytest.raises(RunError) as caught:
        trained(folder, *ONE, *sets)
    (problem,) = caught.value.problems
    return problem


def poison(monkeypatch: pytest.MonkeyPatch, name: str, number: float) -> None:
    """Before step 4, one number of a weight becomes another."""
    step, origin = Trainer.step, Trainer.origin

    def poisoned(trainer: Trainer, at: int) -> None:
        if at == 3:
            array = to_numpy(trainer.weights[name]).copy()
            array.reshape(-1)[:] = number
            trainer.weights[name].assign(tensors_from_numpy(w=array)["w"]).realize()

    def stepped(self: Trainer, batches: Any, scalars: Any, at: int) -> Any:
        poisoned(self, at)
        return step(self, batches, scalars, at)

    def looked(self: Trainer, batches: Any, scalars: Any, at: int) -> str:
        poisoned(self, at)
        return origin(self, batches, scalars, at)

    monkeypatch.setattr(Trainer, "step", stepped)
    monkeypatch.setattr(Trainer, "origin", looked)


@pytest.mark.parametrize(
    ("weight", "number", "said"),
    [
        ("layers.1.mlp.gate_proj.weight", -3e38, "it began in layers.1: "),
        ("layers.2.attention.o_proj.weight", float("nan"), "the weights of layers.2.attention.o_proj.weight had"),
        ("layers.0.mlp.gate_proj.weight", -3e38, "it began in layers.0: "),
    ],
)
def test_the_first_layer_is_named_when_it_is_met_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weight: str, number: float, said: str
) -> None:
    poison(monkeypatch, weight, number)
    first = failed(tmp_path)
    assert "at step 4 of first" in first.message and "says in which layer it begins" in first.hint
    assert "the checkpoint of step 3 is kept" in first.consequence
    second = failed(tmp_path)
    assert "at step 4 of first" in second.message and said in second.message
    assert "comes to this step again" not in second.hint


def test_a_rate_that_is_too_high_is_traced_from_the_start(tmp_path: Path) -> None:
    high = ("phases.first.optimizer={kind: sgd, lr: 1e30}", "phases.first.max_grad_norm=null")
    first, second = (failed(tmp_path, *high, "phases.first.checkpoint_every=0") for _ in range(2))
    assert "it began in" in second.message or "began in the gradient" in second.message
    assert second.message.startswith(first.message)


def test_a_step_that_is_sound_has_no_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And looking changes nothing: the step after it is the same to the bit."""
    found: list[str] = []
    step = Trainer.step

    def stepped(self: Trainer, batches: Any, scalars: Any, at: int) -> Any:
        found.append(self.origin(batches, scalars, at))
        return step(self, batches, scalars, at)

    folders = [tmp_path / "plain", tmp_path / "looked"]
    for folder in folders:
        folder.mkdir()
    heard = [trained(folders[0], *ONE)]
    monkeypatch.setattr(Trainer, "step", stepped)
    heard.append(trained(folders[1], *ONE))
    assert found == [""] * 6
    losses = [[s.loss for s in h.steps] for h in heard]
    assert np.array_equal(losses[0], losses[1])
