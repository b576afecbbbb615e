"""A measuring process: `python -m llmspec.bench.worker`, a Task as JSON on stdin, its Result as JSON on stdout.

Every measurement has a process of its own, so that neither side finds the other's memory, threads or caches.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from llmspec.forecast.process_memory import peak_bytes

if TYPE_CHECKING:
    from llmspec.bench.task import Result, Task
    from llmspec.forecast.report import Machine


def measured(task: Task) -> Result | Machine:
    """Measures with the side's own modules, which are imported only here."""
    if task.work == "machine":
        from llmspec.forecast.machine import measure

        return measure(task.plan.device)
    if task.side in ("torch", "torch.compile"):
        from llmspec.bench import torch_side

        return torch_side.run(task)
    if task.side == "transformers":
        from llmspec.bench import transformers_side

        return transformers_side.run(task)
    if task.side == "llama.cpp":
        from llmspec.bench import llama_cpp_side

        return llama_cpp_side.run(task)
    from llmspec.bench import llmspec_side

    return llmspec_side.run(task)


def answer(text: str) -> str:
    """What the task, as JSON, is answered: a Result, a Machine, or {"problems": […]} that a person can mend."""
    before = peak_bytes()
    from llmspec.backends.workers import ToolchainError
    from llmspec.bench.task import Result, Task
    from llmspec.core.problems import LlmspecError, Problem

    try:
        task = Task.model_validate_json(text)
        reading = peak_bytes() - before
        made = measured(task)
        if isinstance(made, Result) and task.side != "llmspec" and task.plan.device.startswith("CPU"):
            # A peer's program would not have read a plan.
            made = made.model_copy(update={"peak_bytes": made.peak_bytes - reading})
        return made.model_dump_json()
    except LlmspecError as e:
        return json.dumps({"problems": [asdict(p) for p in e.problems]})
    except ToolchainError as e:
        return json.dumps({"problems": [asdict(Problem(str(e)))]})


if __name__ == "__main__":
    print(answer(sys.stdin.read()))
