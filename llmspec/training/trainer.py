"""Optimizer steps of one phase: its weights, their state and gradients, and the captured steps that change them.

Runs train with it and benchmarks measure it, so that what is measured is what runs.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from tinygrad import Tensor

from llmspec.backends.plain.backend import Backend
from llmspec.backends.tensors import StaticInputs, refill, tensors_from_numpy, to_numpy
from llmspec.compiler.inputs import NOISE, PASS_SHARE
from llmspec.compiler.linear_layers import may_stay_quantised
from llmspec.compiler.plan import PhasePlan, Plan, TensorPlan
from llmspec.compiler.updates import copied
from llmspec.model.origin import origin
from llmspec.model.others import OtherModels, Weights
from llmspec.model.steps import Steps
from llmspec.model.transformer import Transformer
from llmspec.parts.ops import WeightLayout
from llmspec.training.noise import embedding_noise

Arrays = Mapping[str, Any]
"""Numpy arrays by name: what a graph reads of a batch, as llmspec.compiler.inputs declares it."""


class StepTaken(NamedTuple):
    """What one optimizer step came to."""

    sums: dict[str, float]
    """The mean loss of the step, and the means of what its objective counts beside."""
    norm: float
    """Of the gradient, before clipping."""
    targets: int
    """How many targets counted."""
    passes: int
    """Over the rows of how many batches it went."""
    skipped: str = ""
    """Why its update was not applied; '' where it was."""


class OfLength(NamedTuple):
    """The graphs of steps whose rows have a length, and what they read."""

    length: int
    steps: Steps
    feed: StaticInputs


class Trainer:
    """Everything of a phase that lies in the device's memory, changed in place by `step`."""

    def __init__(
        self,
        plan: Plan,
        phase: PhasePlan,
        backend: Backend,
        weights: Callable[[TensorPlan], Any],
        state: Mapping[str, Any] | None = None,
        others: Weights = MappingProxyType({}),
    ) -> None:
        """`weights` gives each tensor's numbers as a numpy array, or as Quantised where it is not trained, one after
        another, so that no second copy of all of them has to be held; `state` the optimizer's by name, which starts as
        zeros or as its weight; `others` those of the models that stand beside, by role."""
        import numpy as np

        self.phase, self.backend = phase, backend
        self.seed, self.passes, self.dropout = (
            plan.seed,
            phase.phase.gradient_accumulation_steps,
            phase.model.drawn,
        )
        self._feed = StaticInputs()
        self._shorter: OfLength | None = None
        self.tables = tensors_from_numpy(**Transformer(phase.model).tables()) | OtherModels(phase).tensors(others)
        self.weights, self.layouts = dict[str, Tensor](), dict[str, WeightLayout]()
        packed = may_stay_quantised(phase.model)
        for t in phase.model.tensors:
            held, layouts = backend.hold({t.name: weights(t)}, packed)
            self.weights |= held
            self.layouts |= layouts
        self.steps = Steps(phase, backend, self.layouts)
        self.state, self.sums = dict[str, Tensor](), dict[str, Tensor]()
        begun = copied(phase.phase)
        for name, shape in self.steps.state_shapes().items():
            weight, _, kind = name.rpartition(":")
            if state is not None:
                value = state[name]
            else:
                value = to_numpy(self.weights[weight]) if kind in begun else np.zeros(shape, np.float32)
            self.state[name] = tensors_from_numpy(s=value)["s"]
        self._live = self.steps.live(self.weights, self.state)
        self.refuses: Callable[[float], str] = lambda loss: ""
        """Why the update of a step with this loss is not applied; '' where it is. Asked where updates are apart."""
        if phase.phase.updates_apart:
            for t in phase.model.trained:
                self.sums[t.name] = tensors_from_numpy(s=np.zeros(t.shape, np.float32))["s"]

    def step(self, batches: Sequence[Arrays], scalars: Sequence[float], number: int) -> StepTaken:
        """Optimizer step `number` (from 0) on the batches of its passes; `scalars` are the optimizer's for it."""
        import numpy as np

        weight = sum(float(b["loss_weights"].sum()) for b in batches)
        targets = sum(int(np.count_nonzero(b["loss_weights"])) for b in batches)
        common = {"scalars": np.array(scalars, np.float32)}
        if not self.phase.phase.updates_apart:
            inputs = self._inputs(batches[0], weight, number, 0, common)
            *sums, norm = self._of_length(batches[0]).steps.train(self.weights, self.state, self.tables, inputs)
            return StepTaken(self._named(sums), float(to_numpy(norm)), targets, 1)
        totals = dict.fromkeys(self.steps.sums, 0.0)
        for micro, batch in enumerate(batches):
            more = {"keep": np.array([float(micro > 0)], np.float32)}
            if self.phase.phase.batch_size_warmup.percent:
                more[PASS_SHARE] = np.array([1 / len(batches)], np.float32)
            inputs = self._inputs(batch, weight, number, micro, more)
            found = self._named(self._of_length(batch).steps.accumulate(self._live, self.sums, self.tables, inputs))
            totals = {name: total + found[name] for name, total in totals.items()}
        if why := self.refuses(totals["loss"]):
            return StepTaken(totals, self._left_out(scalars), targets, len(batches), why)
        inputs = {**self._feed(**common), **self.backend.inputs}
        norm = self.steps.apply(self.weights, self.state, self.sums, inputs)
        return StepTaken(totals, float(to_numpy(norm)), targets, len(batches))

    def _left_out(self, scalars: Sequence[float]) -> float:
        """The norm of gradients that are not applied, of which nothing is left for the next step."""
        import numpy as np

        total, unfreezes = 0.0, bool(self.phase.phase.unfreeze)
        for name, gradient in self.sums.items():
            array = to_numpy(gradient)
            if not unfreezes or scalars[self.steps.updates.place(name)][-1]:
                total += float(np.square(array, dtype=np.float64).sum())
            if not np.isfinite(array).all():  # the next pass multiplies it by 0, which would not take it away
                refill(gradient, np.zeros_like(array))
        return math.sqrt(total)

    def evaluate(self, batch: Arrays, instead: Mapping[str, Tensor] = MappingProxyType({})) -> dict[str, Any]:
        """The sums of a batch's losses and of what is counted beside, each times its `loss_weights`; without
        dropout. What the objective gathers comes as numpy arrays. `instead` are tensors in place of the weights'."""
        import numpy as np

        whole = self.phase.phase.objective.gathered
        inputs = {**self._feed(**batch), **self.backend.inputs}
        found = self.steps.evaluate({**self.weights, **instead}, self.tables, inputs)
        arrays = {name: to_numpy(one) for name, one in zip(self.steps.evaluated, found, strict=True)}
        return {name: np.array(a) if name in whole else float(a) for name, a in arrays.items()}

    def origin(self, batches: Sequence[Arrays], scalars: Sequence[float], number: int) -> str:
        """Where the numbers of a step that has not been taken stop being finite; '' where they do not in its passes.

        The graphs of the steps are made anew for it."""
        import numpy as np

        weight = sum(float(b["loss_weights"].sum()) for b in batches)
        steps = Steps(self.phase, self.backend, self.layouts)
        for micro, batch in enumerate(batches):
            inputs = self._inputs(batch, weight, number, micro, {"scalars": np.array(scalars, np.float32)})
            if found := origin(steps, self._live, self.tables, inputs):
                return found
        return ""

    def weight_arrays(self) -> dict[str, Any]:
        """The weights that the phase's artifact holds, as numpy arrays of their own."""
        return {t.name: to_numpy(self.weights[t.name]) for t in self.phase.model.stored}

    def state_arrays(self) -> dict[str, Any]:
        """The optimizer's state as numpy arrays of their own."""
        return {n: to_numpy(s) for n, s in self.state.items()}

    def captured_bytes(self) -> int:
        """Bytes that captured steps hold, which tinygrad does not count."""
        graphs = [self.steps.train, self.steps.accumulate, self.steps.apply, self.steps.evaluate]
        if self._shorter is not None:
            graphs += [self._shorter.steps.train, self._shorter.steps.accumulate]
        return sum(g.captured_bytes for g in graphs)

    def _of_length(self, batch: Arrays) -> OfLength:
        """What takes steps of rows as long as those of a batch. Of lengths below the context, one at a time is there:
        rows grow, and those of the context need most memory."""
        length = batch["tokens"].shape[1]
        if self._shorter is not None and self._shorter.length != length:
            self._shorter = None
            gc.collect()  # captured steps hold their places, and are not free of circles
        if length == self.phase.model.context:
            return OfLength(length, self.steps, self._feed)
        if self._shorter is None:
            self._shorter = OfLength(length, Steps(self.phase, self.backend, self.layouts), StaticInputs())
        return self._shorter

    def _named(self, sums: Sequence[Tensor]) -> dict[str, float]:
        return {name: float(to_numpy(total)) for name, total in zip(self.steps.sums, sums, strict=True)}

    def _inputs(self, batch: Arrays, weight: float, number: int, micro: int, more: Arrays) -> dict[str, Tensor]:
        """What a training graph reads of a pass; each target's weight is its part of the step's mean."""
        import numpy as np

        shares = (batch["loss_weights"] / (weight or 1.0)).astype(np.float32)
        arrays = {**batch, "loss_weights": shares, **more}
        if self.dropout:
            arrays["key"] = random_key(self.seed, self.phase.name, number, micro)
        if (alpha := self.phase.phase.embedding_noise) is not None:
            shape = (*batch["tokens"].shape, self.phase.model.d_model)
            arrays[NOISE] = embedding_noise(alpha, shape, self.seed, self.phase.name, number, micro)
        return {**self._of_length(batch).feed(**arrays), **self.backend.inputs}


def random_key(seed: int, phase: str, step: int, micro: int) -> Any:
    """(2,) uint32 for dropout: a function of seed, phase, step and pass."""
    import numpy as np

    return np.frombuffer(hashlib.sha256(f"{seed}/{phase}/{step}/{micro}".encode()).digest()[:8], np.uint32).copy()
