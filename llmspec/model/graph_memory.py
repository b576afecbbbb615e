"""What a phase holds and computes, asked of the graphs themselves: they are scheduled and planned, never run.

`python -m llmspec.model.graph_memory` reads a plan (JSON) from standard input and prints what each phase takes, as
JSON. It is a process of its own, since tinygrad chooses its device when it is imported: a plan for a GPU that is not
here is scheduled for tinygrad's NULL device, which allocates nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmspec.backends import shield
from llmspec.backends.workers import how_it_ended
from llmspec.compiler.critic import critic_plan
from llmspec.compiler.inputs import step_inputs
from llmspec.compiler.lengths import shortened
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.problems import RunError

if TYPE_CHECKING:
    from tinygrad import Tensor, UOp

    from llmspec.backends.plain.backend import Backend
    from llmspec.backends.plain.ops import Ops
    from llmspec.parts.dropout import Dropout


@dataclass(frozen=True)
class Graph:
    """A step as scheduled: its kernels in order, over input buffers and buffers of its own."""

    linear: UOp
    own_bytes: int
    """What its own buffers take, those that never live at the same time sharing one place."""

    def operations(self) -> int:
        """Operations on numbers, indexing excluded, as tinygrad counts them; calls of C count as none.

        Compiles every kernel for the device, which costs nothing on NULL alone.
        """
        from llmspec.backends.tinygrad_private import compile_linear, estimate_uop

        return sum(int(estimate_uop(call).ops) for call in compile_linear(self.linear).src)


def graph_of(function: Callable[..., Any], *inputs: dict[str, Tensor] | UOp) -> Graph:
    """The graph of a step, as TinyJit would capture and plan it; the inputs (bound variables among them) may be
    unallocated."""
    from tinygrad import UOp

    from llmspec.backends.tinygrad_private import Ops, capturing, memory_plan_rewrite

    recorder = _Recorder()
    capturing.append(recorder)
    try:
        result = function(*inputs)
    finally:
        capturing.clear()
    given = {t.uop.base for tensors in inputs if isinstance(tensors, dict) for t in tensors.values()}
    returned = {
        u for t in (result if isinstance(result, tuple) else (result,)) for u in t.uop.toposort() if u.op is Ops.BUFFER
    }
    linear = UOp(Ops.LINEAR, src=tuple(call for part in recorder.linears for call in part.src))
    planned = memory_plan_rewrite(linear, given | returned)
    own = {u for u in planned.toposort() if u.op is Ops.BUFFER} - given
    return Graph(planned, sum(u.max_numel() * u.dtype.itemsize for u in own))


class _Recorder:
    """Stands where a TinyJit stands while it captures."""

    def __init__(self) -> None:
        self.linears: list[UOp] = []

    def add_linear(self, linear: UOp, var_vals: dict[str, int]) -> None:
        self.linears.append(linear)


def recording(base: Backend) -> Backend:
    """The backend, whose steps give their graphs instead of running."""
    from llmspec.backends.plain.backend import Backend

    class Recording(Backend):
        def jit(self, function: Callable[..., Any], key: str = "") -> Any:
            return lambda *inputs: graph_of(function, *inputs)

        def ops(
            self,
            inputs: dict[str, Tensor],
            key: Tensor | None = None,
            dropout: float | Dropout = 0.0,
            by_sequence: bool = False,
        ) -> Ops:
            return base.ops(inputs, key, dropout, by_sequence)

    return Recording(base.name, base.inputs, base.precision)


class Phase:
    """A phase's graphs over tensors that are never allocated."""

    def __init__(self, plan: Plan, phase: PhasePlan, backend: Backend, length: int | None = None) -> None:
        """`length` is that of its rows; None: that of the context."""
        from tinygrad import Tensor

        from llmspec.model.others import OtherModels
        from llmspec.model.steps import Steps
        from llmspec.model.transformer import Transformer

        self.plan, self.phase, self.backend = plan, phase.phase, backend
        self._steps = Steps(phase, recording(backend))
        self.weights = {t.name: Tensor.empty(*t.shape) for t in phase.model.tensors}
        self.state = {n: Tensor.empty(*shape) for n, shape in self._steps.state_shapes().items()}
        self.sums = {t.name: Tensor.empty(*t.shape) for t in phase.model.trained} if self.phase.updates_apart else {}
        self.tables = {n: Tensor.empty(*a.shape) for n, a in Transformer(phase.model).tables().items()}
        self.others = {n: Tensor.empty(*shape) for n, shape in OtherModels(phase).shapes().items()}
        declared = step_inputs(*shortened(phase.model, self.phase, length or phase.model.context), phase.others)
        self.batch = {n: Tensor.empty(*spec.shape, dtype=spec.dtype) for n, spec in declared.items()}

    def train(self) -> list[Graph]:
        """The graphs of one optimizer step: one, or a pass of several and the update."""
        inputs = {**self.batch, **self.backend.inputs}
        if not self.sums:
            return [self._steps.train(self.weights, self.state, {**self.tables, **self.others}, inputs)]
        return [
            self._steps.accumulate(self.weights, self.sums, {**self.tables, **self.others}, inputs),
            self._steps.apply(self.weights, self.state, self.sums, inputs),
        ]

    def evaluate(self) -> Graph:
        """The graph of a forward pass with its losses."""
        tables = {**self.tables, **self.others}
        return self._steps.evaluate(self.weights, tables, {**self.batch, **self.backend.inputs})

    def held(self) -> dict[str, int]:
        """Bytes of what stays allocated while the phase runs, by name."""
        groups = {
            "weights": self.weights,
            "optimizer": self.state,
            "sums": self.sums,
            "tables": self.tables,
            "batch": self.batch,
            **({"others": self.others} if self.others else {}),
        }
        return {name: sum(t.nbytes() for t in tensors.values()) for name, tensors in groups.items()}


def measure(plan: Plan, phase: PhasePlan, backend: Backend, operations: bool = False) -> dict[str, int]:
    """Bytes of a phase by name, and `operations` of a whole optimizer step and of a forward pass where asked."""
    graphs = Phase(plan, phase, backend)
    train, evaluate = graphs.train(), graphs.evaluate()
    # A captured step keeps its buffers, so that those of all steps lie side by side.
    found = {**graphs.held(), "training step": sum(g.own_bytes for g in train), "evaluation": evaluate.own_bytes}
    if operations:
        passes = phase.phase.gradient_accumulation_steps
        found["step operations"] = train[0].operations() * passes + sum(g.operations() for g in train[1:])
        found["forward operations"] = evaluate.operations()
    if (critic := critic_plan(phase)) is not None:
        beside = measure(plan, critic, backend, operations)
        found = {name: found.get(name, 0) + beside.get(name, 0) for name in {**found, **beside}}
    return found


def exact(plan: Plan, operations: bool = False) -> dict[str, dict[str, int]]:
    """`measure` of every phase by name, in a process of its own. Raises RunError where that fails."""
    device = plan.device if plan.device.startswith("CPU") and not operations else "NULL"
    command = [sys.executable, "-m", "llmspec.model.graph_memory", device, *(["--operations"] if operations else [])]
    done = subprocess.run(
        command,
        input=json.dumps(plan.dump()),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if done.returncode:
        raise RunError(
            f"the steps could not be scheduled: {how_it_ended(done.returncode, done.stderr)}",
            "leave out --exact for the analytic figures",
        )
    found: dict[str, dict[str, int]] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """The process of its own."""
    plan = Plan.parse(sys.stdin.read())
    device = sys.argv[1]
    if device == "NULL":
        shield.give(DEV=device)
    else:
        from llmspec.model.device import open_device

        open_device(device)
    from llmspec.backends.backend import backend

    chosen = backend(device, plain=device == "NULL", precision=plan.precision)
    found = {p.name: measure(plan, p, chosen, "--operations" in sys.argv) for p in plan.phases}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
