"""llmspec's own side: the training step, the prefill and the decode step that runs use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmspec.bench.batches import batch, prompt
from llmspec.bench.task import CHECKED, ROWS, WARM, Result, Task, greedy, tokens_of
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.forecast.machine import memory_rate
from llmspec.forecast.process_memory import peak_bytes
from llmspec.forecast.timing import Numbers, timed
from llmspec.model.device import allocated, open_device


def run(task: Task) -> Result:
    """Measures the task in this process. Raises ToolchainError where a CPU has no compiler."""
    open_device(task.plan.device, task.plan.beam)
    if task.work == "train":
        (seconds, check), read = train(task), 0
    else:
        made = decoder(task)
        seconds, check = {"prefill": prefill, "decode": decode, "batch": batch_of_rows}[task.work](task, made)
        read = token_bytes(task, made) if task.work == "decode" else 0
    # A captured step keeps its memory, so that what is allocated after it is the most that ever was.
    held = peak_bytes() if task.plan.device.startswith("CPU") else allocated()
    return Result(
        name=name(task.plan.device),
        seconds=seconds,
        check=check,
        peak_bytes=held,
        read_bytes=read,
        memory_rate=memory_rate(task.plan.device) if task.work == "decode" else 0.0,
    )


def name(device: str) -> str:
    """What this side is called in reports: the operations that the device runs."""
    from llmspec.backends.backend import backend

    return f"llmspec, {backend(device).name}"


def realized(plan: Plan) -> dict[str, Any]:
    """The plan's weights at step 0, drawn one by one, so that no second copy of all of them is held."""
    from llmspec.backends.tensors import Settled, tensors_from_numpy
    from llmspec.model.weights import draw

    return Settled({t.name: tensors_from_numpy(w=draw(t, plan.seed))["w"] for t in plan.model.tensors})


class Training:
    """Optimizer steps of a phase on random batches, at its peak learning rate, by the trainer of runs."""

    def __init__(self, plan: Plan, phase: PhasePlan) -> None:
        from llmspec.backends.backend import backend
        from llmspec.data.inputs import BatchInputs
        from llmspec.model.weights import draw
        from llmspec.training.trainer import Trainer

        self.plan, self.phase, self.step = plan, phase, 0
        made = backend(plan.device, precision=plan.precision)
        others = {r: lambda o=o: {t.name: draw(t, plan.seed) for t in o.model.tensors} for r, o in phase.others.items()}
        self.trainer = Trainer(plan, phase, made, lambda tensor: draw(tensor, plan.seed), others=others)
        specials, seed = plan.tokenizer.meanings(), (plan.seed, phase.name)
        self.arrays = BatchInputs(phase.model, phase.phase, specials, seed, others=phase.others)

    def batches(self, step: int) -> list[Any]:
        """What the passes of a step (from 0) read."""
        passes = self.trainer.passes
        return [self.arrays(batch(self.plan, self.phase, step * passes + m), step, m) for m in range(passes)]

    def advance(self) -> float:
        """One optimizer step; its mean loss in nats."""
        scalars = self.trainer.steps.updates.numbers(1.0, self.step + 1, self.phase.steps or 1)
        taken = self.trainer.step(self.batches(self.step), scalars, self.step)
        self.step += 1
        return taken.sums["loss"]

    def first_loss(self) -> float:
        """The mean loss of the first step's batches without dropout, which no two libraries draw alike."""
        read = self.batches(0)
        total = sum(self.trainer.evaluate(arrays)["loss"] for arrays in read)
        return total / sum(float(arrays["loss_weights"].sum()) for arrays in read)


def train(task: Task) -> tuple[Numbers, Numbers]:
    """(seconds of steps, the first loss)."""
    training = Training(task.plan, task.plan.phase(task.phase))
    check = training.first_loss() if task.plan.model.dropout else None
    first = training.advance()
    for _ in range(WARM - 1):
        training.advance()
    return timed(training.advance, task.steps), (first if check is None else check,)


def decoder(task: Task) -> Any:
    """A decoder with the weights of the task's model, or with the plan's at step 0."""
    from llmspec.backends.backend import backend
    from llmspec.decoding.language_model import open_model
    from llmspec.model.decoder import Decoder

    plan = task.plan
    if task.model is not None:
        return open_model(Path(task.model)).decoder
    return Decoder(plan.model, backend(plan.device, precision=plan.precision), realized(plan), 0)


def prefill(task: Task, made: Any) -> tuple[Numbers, Numbers]:
    """(seconds of prefills, logits of what follows the prompt)."""
    tokens = prompt(task.plan, tokens_of(task)[0])
    cache, logits = made.prefill([tokens], made.cache(*made.fit(1, len(tokens))))
    for _ in range(WARM - 1):
        made.prefill([tokens], cache, reuse=False)
    return timed(lambda: made.prefill([tokens], cache, reuse=False), task.steps), tuple(logits[0, :CHECKED].tolist())


def decode(task: Task, made: Any, rows: int = 1) -> tuple[Numbers, Numbers]:
    """(seconds of each step of `rows` texts, logits of the first one's after its first)."""
    length, decoded = tokens_of(task)
    prompts = [prompt(task.plan, length + 1, row) for row in range(rows)]
    cache = made.cache(rows, made.fit(rows, length + 1 + decoded)[1])

    def begin() -> Any:
        made.prefill([tokens[:length] for tokens in prompts], cache, reuse=False)
        return made.step(cache, [tokens[length] for tokens in prompts])

    return greedy(begin, lambda tokens: made.step(cache, tokens), decoded)


def token_bytes(task: Task, made: Any) -> int:
    """Bytes that a decoded token reads: of weights, and of the keys and values of the tokens before it, on average."""
    length, decoded = tokens_of(task)
    return int(made.read_bytes + made.row_bytes(length + 1 + decoded // 2))


def batch_of_rows(task: Task, made: Any) -> tuple[Numbers, Numbers]:
    """The same of many texts side by side."""
    return decode(task, made, ROWS)
