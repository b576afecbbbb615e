"""What a measuring process is asked and what it answers: one line of JSON each way."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from pydantic import ConfigDict

from llmspec.compiler.plan import Plan
from llmspec.core.problems import LlmspecError, Problem
from llmspec.forecast.timing import Numbers
from llmspec.parts.base import Frozen

Work = Literal["machine", "train", "prefill", "decode", "batch"]
Side = Literal["llmspec", "torch", "torch.compile", "transformers", "llama.cpp"]
WORKS: tuple[Work, ...] = ("machine", "train", "prefill", "decode", "batch")
PEERS: dict[Side, tuple[Work, ...]] = {
    "torch": ("train",),
    "torch.compile": ("train",),
    "transformers": ("prefill", "decode"),
    "llama.cpp": ("prefill", "decode", "batch"),
}
"""What each peer is compared in."""
MODULES: dict[Side, tuple[str, ...]] = {
    "torch": ("torch",),
    "torch.compile": ("torch",),
    "transformers": ("torch", "transformers"),
    "llama.cpp": ("llama_cpp",),
}
"""What each peer imports."""
PROMPT = 128
"""Tokens of a prompt, where the context holds as many."""
DECODED = 32
"""Tokens decoded, unless a number is given."""
WARM = 3
"""Calls before the clock starts: the first captures a graph, the next ones bring memory and caches to rest."""
ROWS, ROW_PROMPT = 16, 32
"""Texts that are continued side by side, and the tokens of their prompts."""
CHECKED = 64
"""Logits that the sides compare."""


class BenchError(LlmspecError):
    """A measurement that cannot be made, or whose sides compute different things."""


class Task(Frozen):
    """One piece of work for one side."""

    side: Side
    work: Work
    plan: Plan
    phase: str
    """The phase whose batch, optimizer and clipping a training step has."""
    steps: int | None = None
    """Timed calls; by time where None."""
    model: str | None = None
    """A file or folder whose weights are taken; those of step 0 where None."""
    prompt: int = PROMPT
    """Tokens of a prompt, where the context holds as many."""


class Result(Frozen):
    """What one process measured."""

    model_config = ConfigDict(allow_inf_nan=True, ser_json_inf_nan="constants")  # a check may fail by being NaN

    name: str
    """The side and its version."""
    seconds: tuple[float, ...]
    """Of each timed call: a training step, a prefill, a decoded token."""
    check: tuple[float, ...]
    """Numbers that both sides have to agree on: the first loss in nats, or logits."""
    peak_bytes: int
    """The most memory that the process has held on a CPU, that its tensors have on a GPU."""
    read_bytes: int = 0
    """Bytes of weights, keys and values that a decoded token reads; 0 where that is not known."""
    memory_rate: float = 0.0
    """Bytes of weights a second that a product reads, measured after decoding in the same process, since neighbours of
    a machine change it from minute to minute; 0 where it was not."""


def tokens_of(task: Task) -> tuple[int, int]:
    """(prompt, decoded): tokens of a prompt, and of the timed decoding after it and one token more.

    Raises BenchError where the context has no room for that.
    """
    context = task.plan.model.context
    if task.work == "prefill":
        return min(task.prompt, context), 0
    decoded = min(task.steps or DECODED, context // 2 - 1)
    if decoded < 1:
        raise BenchError(
            Problem(
                f"a context of {context} has no room for decoding",
                ("model", "context"),
                "a context of 4 or more",
                "no token could be timed",
            )
        )
    return min(ROW_PROMPT if task.work == "batch" else task.prompt, context - decoded - 1), decoded


def greedy(begin: Callable[[], Any], step: Callable[[list[int]], Any], decoded: int) -> tuple[Numbers, Numbers]:
    """(seconds of `decoded` greedy steps, logits of the first row before them).

    `begin` and `step(a token for each row)` give logits (R, V).
    """
    for _ in range(WARM):
        logits = begin()
    check, seconds = tuple(map(float, logits[0, :CHECKED])), []
    for _ in range(decoded):
        before = time.perf_counter()
        logits = step(logits.argmax(-1).tolist())
        seconds.append(time.perf_counter() - before)
    return tuple(seconds), check
