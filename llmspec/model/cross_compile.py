"""The kernels of a plan for a GPU that is not here: graphs are built, kernels rendered and, for CUDA, compiled.

`python -m llmspec.model.cross_compile TARGET` reads a plan (JSON) from standard input and prints a line of JSON for
each step on the way, and at last what it found. It is a process of its own, since tinygrad chooses its device when it
is imported: here the NULL device, which allocates nothing, with the renderer of the GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from llmspec.backends import nvidia, shield
from llmspec.backends.workers import how_it_ended
from llmspec.compiler.plan import Plan
from llmspec.core import targets
from llmspec.core.problems import Problem, RunError
from llmspec.core.targets import Target
from llmspec.parts.base import Frozen

if TYPE_CHECKING:
    from tinygrad import UOp

    from llmspec.model.graph_memory import Graph

TENSOR_CORES = ("mma.sync", "simdgroup_multiply_accumulate")
"""What the source of a kernel says that multiplies on tensor cores: CUDA, Metal."""
PROBE = '#include <cuda_fp16.h>\n#include <cuda_bf16.h>\nextern "C" __global__ void probe() {}'
"""Headers that kernels need, which NVIDIA ships apart from the compiler."""
EVERY = 20
"""Kernels between two words of progress."""
Say = Callable[[str], None]


class Kernel(Frozen):
    """One kernel, made once however often it is launched."""

    name: str
    step: str
    """The first step that launches it."""
    lines: int
    """Of its source."""
    tensor_cores: bool
    render_seconds: float
    compile_seconds: float | None
    """None where there was no compiler."""
    error: str = ""
    """The compiler's first line, where it does not compile."""


class Step(Frozen):
    """A graph as it would be launched."""

    name: str
    launches: int


class Made(Frozen):
    """What a plan's graphs became for a GPU that is not here."""

    target: str
    precision: str
    compiled: bool
    why_not: str = ""
    """Why kernels were only rendered."""
    steps: tuple[Step, ...]
    kernels: tuple[Kernel, ...]
    seconds: float

    def problems(self) -> list[Problem]:
        """One for each kernel that does not compile."""
        return [
            Problem(
                f"the kernel {k.name} of {k.step} does not compile for {self.target}: {k.error}",
                (),
                "another model.* shape or `precision:` may avoid it; it is worth a report",
                f"{k.step} would fail on such a GPU",
            )
            for k in self.kernels
            if k.error
        ]


# -- in the caller's process ---------------------------------------------------------------------------------------
def make(plan: Plan, target: Target, say: Say = lambda text: None) -> Made:
    """The kernels of a plan, made in a process of its own; `say` hears of progress.

    Raises SpecError where such a GPU lacks numbers of the plan's precision, and RunError where a graph cannot be built.
    """
    target.refuse(plan.precision)
    command = [sys.executable, "-m", "llmspec.model.cross_compile", target.name]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as plan_file, tempfile.TemporaryFile("w+") as errors:
        plan_file.write(json.dumps(plan.dump()))
        plan_file.seek(0)
        with subprocess.Popen(
            command, stdin=plan_file, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                last = json.loads(line)
                if "say" in last:
                    say(last["say"])
        errors.seek(0)
        if child.returncode or "made" not in last:
            raise RunError(
                f"the graphs could not be built for {target.name}: {how_it_ended(child.returncode, errors.read())}",
                "the same spec on the CPU, or a smaller one, shows whether the device is the reason",
                "the run would fail on such a GPU",
            )
    return Made.model_validate_json(json.dumps(last["made"]))


# -- in the process of its own -------------------------------------------------------------------------------------
class Watching:
    """Stands where tinygrad's compiler stands: notes how long each kernel took, and why one failed.

    `real` is that compiler; without one nothing is compiled.
    """

    cachekey = None

    def __init__(self, real: Any = None) -> None:
        self._real = real
        self.seconds: float | None = None
        self.error = ""

    def compile_cached(self, source: str) -> bytes:
        self.seconds, self.error = None, ""
        if self._real is None:
            return b""
        from llmspec.backends.tinygrad_private import CompileError

        start = time.perf_counter()
        try:
            self._real.compile_cached(source)
        except CompileError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            self.error = next((line for line in lines if "error" in line and not line.startswith("Nvrtc")), lines[0])
        self.seconds = time.perf_counter() - start
        return b""

    compile = compile_cached


def compilers(target: Target) -> tuple[Watching, str]:
    """The compiler that the target's renderer is given, and why it compiles nothing, if so."""
    if target.device == "METAL":
        watching = Watching()
        # Apple's own can only be loaded on macOS; the renderer imports it from here.
        module: Any = ModuleType("tinygrad.runtime.ops_metal")
        module.MetalCompiler = lambda: watching
        sys.modules[module.__name__] = module
        return watching, "Metal's compiler is a part of macOS"
    from tinygrad.runtime.support import compiler_cuda

    from llmspec.backends.tinygrad_private import CompileError

    try:
        real = compiler_cuda.NVRTCCompiler(target.architecture, ptx=False)
        real.compile(PROBE)
        watching, why_not = Watching(real), ""
    except (AttributeError, OSError, RuntimeError, CompileError) as error:
        reason = next((line for line in str(error).splitlines() if "error:" in line), str(error))
        watching, why_not = Watching(), f"NVIDIA's compiler is not complete ({reason}): {nvidia.REMEDY}"
    compiler_cuda.NVRTCCompiler = lambda *_, **__: watching  # type: ignore[assignment, misc]
    return watching, why_not


def graphs(plan: Plan) -> Iterator[tuple[str, Graph]]:
    """Every graph that a run of the plan launches, by name: training, evaluation, prefill and decode step."""
    from llmspec.backends.backend import backend
    from llmspec.model.graph_memory import Phase, recording

    chosen = backend("NULL", precision=plan.precision)
    for phase in plan.phases:
        built = Phase(plan, phase, chosen)
        names = ("pass", "update") if phase.phase.updates_apart else ("training step",)
        yield from zip((f"{phase.name}, {name}" for name in names), built.train(), strict=True)
        for length in phase.phase.row_lengths(phase.model.context).lengths[:-1]:
            yield f"{phase.name}, {names[0]} of rows of {length} tokens", Phase(plan, phase, chosen, length).train()[0]
        yield f"{phase.name}, evaluation", built.evaluate()
    yield from decoding(plan, recording(chosen))


def decoding(plan: Plan, recorder: Any) -> Iterator[tuple[str, Graph]]:
    """The graphs that write text: the longest prefill, and a step."""
    import numpy as np
    from tinygrad import Tensor

    from llmspec.model.decoder import Decoder, KVCache

    made: list[Graph] = []

    class Graphs(Decoder):
        """Keeps the steps' graphs, and gives logits that say nothing."""

        def _run(self, jit: Any, cache: KVCache, inputs: Any) -> Any:
            made.append(jit(self._weights, self.positions.tensors, cache.tensors, inputs))
            return np.zeros((cache.rows, self.vocab), np.float32)

    decoder = Graphs(plan.model, recorder, {t.name: Tensor.empty(*t.shape) for t in plan.model.tensors}, 0)
    cache, _ = decoder.prefill([[0] * (plan.model.encoder_context or max(1, plan.model.context - 1))])
    yield "prefill", made[0]
    if plan.model.context > 1:
        decoder.step(cache, [0])
        yield "decode step", made[-1]


def kernels_of(graph: Graph) -> list[UOp]:
    """What a graph launches, in order. Raises TypeError for a call that is no kernel of the device."""
    from llmspec.backends.tinygrad_private import Ops

    bodies = [call.src[0] for call in graph.linear.src]
    if strange := [body.op.name for body in bodies if body.op is not Ops.SINK]:
        raise TypeError(f"a graph for a GPU holds {strange[0].lower()}, which is not a kernel")
    return bodies


def made(plan: Plan, target: Target, say: Say) -> Made:
    """Builds every graph, then makes every kernel once."""
    from tinygrad import Device, dtypes

    start = time.perf_counter()
    watching, why_not = compilers(target)
    renderer: Any = Device[Device.DEFAULT].renderer
    if target.device == "CUDA":  # as on the GPU itself, where tinygrad leaves out what would round float32 (TF32)
        renderer.tensor_cores = [core for core in renderer.tensor_cores if core.dtype_in != dtypes.float]
    steps: list[Step] = []
    bodies: dict[bytes, tuple[UOp, str]] = {}
    for name, graph in graphs(plan):
        launched = kernels_of(graph)
        steps.append(Step(name=name, launches=len(launched)))
        for body in launched:
            bodies.setdefault(body.key, (body, name))
        say(f"{name}: {len(launched)} launches")
    kernels = []
    for number, (body, name) in enumerate(bodies.values()):
        if number % EVERY == 0:
            say(f"kernel {number} of {len(bodies)}")
        kernels.append(kernel(body, name, renderer, watching))
    return Made(
        target=target.name,
        precision=plan.precision,
        compiled=not why_not,
        why_not=why_not,
        steps=tuple(steps),
        kernels=tuple(kernels),
        seconds=time.perf_counter() - start,
    )


def kernel(body: UOp, step: str, renderer: Any, watching: Watching) -> Kernel:
    """One kernel, rendered and, where there is a compiler, compiled."""
    from llmspec.backends.tinygrad_private import Ops, to_program

    start = time.perf_counter()
    watching.seconds, watching.error = None, ""
    program = to_program(body, renderer)
    seconds = time.perf_counter() - start
    source = next(str(u.arg) for u in program.src if u.op is Ops.SOURCE)
    return Kernel(
        name=program.src[0].arg.function_name,
        step=step,
        lines=source.count("\n") + 1,
        tensor_cores=any(word in source for word in TENSOR_CORES),
        render_seconds=seconds - (watching.seconds or 0.0),
        compile_seconds=watching.seconds,
        error=watching.error,
    )


def main() -> None:
    """The process of its own."""
    import gc

    gc.disable()  # graphs are large and live to the end: looking through them again and again takes longer than making
    from llmspec.backends.kernel_database import keep_kernels

    plan, target = Plan.parse(sys.stdin.read()), targets.parse(sys.argv[1])
    shield.give(**nvidia.libraries(), DEV=f"NULL:{target.name}", PARALLEL="0")
    keep_kernels()
    found = made(plan, target, lambda text: print(json.dumps({"say": text}), flush=True))
    print(json.dumps({"made": found.model_dump(mode="json")}), flush=True)


if __name__ == "__main__":
    main()
