"""llmspec's own side: the training step, the prefill and the decode step that runs use."""

from __future__ import annotations

from typing import Any

from llmspec.bench.batches import batch, prompt
from llmspec.bench.task import CHECKED, WARM, Result, Task, greedy, tokens_of
from llmspec.compiler.masks import Mask
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.forecast.process_memory import peak_bytes
from llmspec.forecast.timing import Numbers, timed
from llmspec.model.device import allocated, open_device


def run(task: Task) -> Result:
    """Measures the task in this process. Raises ToolchainError where a CPU has no compiler."""
    open_device(task.plan.device, task.plan.beam)
    measure = {"train": train, "prefill": prefill, "decode": decode}[task.work]
    seconds, check = measure(task)
    # A captured step keeps its memory, so that what is allocated after it is the most that ever was.
    held = peak_bytes() if task.plan.device.startswith("CPU") else allocated()
    return Result(name=name(task.plan.device), seconds=seconds, check=check, peak_bytes=held)


def name(device: str) -> str:
    from llmspec.backends.backend import backend

    return f"llmspec, {backend(device).name}"


def realized(plan: Plan) -> dict[str, Any]:
    """The plan's weights at step 0, drawn one by one, so that no second copy of all of them is held."""
    from llmspec.backends.backend import tensors_from_numpy
    from llmspec.model.weights import draw

    return {t.name: tensors_from_numpy(w=draw(t, plan.seed))["w"] for t in plan.model.tensors}


class Training:
    """Optimizer steps of a phase on random batches, at its peak learning rate, as the loop of a run makes them."""

    def __init__(self, plan: Plan, phase: PhasePlan) -> None:
        import numpy as np

        from llmspec.backends.backend import StaticInputs, backend, tensors_from_numpy
        from llmspec.model.steps import Steps
        from llmspec.model.transformer import Transformer

        self.plan, self.phase, self.backend = plan, phase, backend(plan.device, precision=plan.precision)
        self.steps, self.feed = Steps(plan, phase, self.backend), StaticInputs()
        self.tables, self.weights = tensors_from_numpy(**Transformer(plan.model).tables()), realized(plan)
        shapes = self.steps.state_shapes()
        self.state = {n: tensors_from_numpy(s=np.zeros(shape, np.float32))["s"] for n, shape in shapes.items()}
        self.passes = phase.phase.gradient_accumulation_steps
        self.sums = (
            tensors_from_numpy(**{n: np.zeros(w.shape, np.float32) for n, w in self.weights.items()})
            if self.passes > 1
            else {}
        )
        self.step = 0

    def advance(self) -> float:
        """One optimizer step; its mean loss in nats."""
        import numpy as np

        from llmspec.backends.backend import host

        self.step += 1
        scalars = np.array(self.phase.phase.optimizer.scalars(1.0, self.step), np.float32)
        if self.passes == 1:
            loss, norm = self.steps.train(self.weights, self.state, self.tables, self.inputs(0, scalars=scalars))
            host(norm)
            return float(host(loss))
        total = 0.0
        for micro in range(self.passes):
            inputs = self.inputs(micro, keep=np.array([float(micro > 0)], np.float32))
            total += float(host(self.steps.accumulate(self.weights, self.sums, self.tables, inputs)))
        inputs = {**self.feed(scalars=scalars), **self.backend.inputs}
        host(self.steps.apply(self.weights, self.state, self.sums, inputs))
        return total

    def first_loss(self) -> float:
        """The mean loss of the first step's batches without dropout, which no two libraries draw alike."""
        from llmspec.backends.backend import host

        losses = [
            float(host(self.steps.evaluate(self.weights, self.tables, self.inputs(m, step=1))))
            for m in range(self.passes)
        ]
        return float(sum(losses))

    def inputs(self, micro: int, step: int = 0, **more: Any) -> dict[str, Any]:
        """What the graphs read of a pass of the running step, or without dropout of `step` (from 1)."""
        import numpy as np

        arrays = batch(self.plan, self.phase, ((step or self.step) - 1) * self.passes + micro)
        targets, mask = arrays["targets"].size * self.passes, Mask(self.phase.phase.document_mask)
        arrays["spans"] = mask.spans(self.plan.model.context, arrays.pop("documents", None))
        arrays |= {"shares": np.full(arrays["targets"].shape, 1 / targets, np.float32), **more}
        if self.plan.model.dropout and not step:
            arrays["key"] = np.array([self.step, micro], np.uint32)
        return {**self.feed(**arrays), **self.backend.inputs}


def train(task: Task) -> tuple[Numbers, Numbers]:
    """(seconds of steps, the first loss)."""
    training = Training(task.plan, task.plan.phase(task.phase))
    check = training.first_loss() if task.plan.model.dropout else None
    first = training.advance()
    for _ in range(WARM - 1):
        training.advance()
    return timed(training.advance, task.steps), (first if check is None else check,)


def decoder(plan: Plan) -> Any:
    from llmspec.backends.backend import backend
    from llmspec.model.decoder import Decoder

    return Decoder(plan.model, backend(plan.device, precision=plan.precision), realized(plan))


def prefill(task: Task) -> tuple[Numbers, Numbers]:
    """(seconds of prefills, logits of what follows the prompt)."""
    made, tokens = decoder(task.plan), prompt(task.plan, tokens_of(task)[0])
    cache, logits = made.prefill(tokens)
    for _ in range(WARM - 1):
        made.prefill(tokens, cache=cache)
    return timed(lambda: made.prefill(tokens, cache=cache), task.steps), tuple(logits[0, :CHECKED].tolist())


def decode(task: Task) -> tuple[Numbers, Numbers]:
    """(seconds of each decoded token, logits after the first)."""
    length, decoded = tokens_of(task)
    made, tokens = decoder(task.plan), prompt(task.plan, length + 1)
    cache = made.cache()

    def begin() -> Any:
        made.prefill(tokens[:length], cache=cache)
        return made.step(cache, tokens[length:])

    return greedy(begin, lambda token: made.step(cache, [token]), decoded)
