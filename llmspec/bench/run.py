"""`llmspec bench`: works and sides in processes of their own, in turns, and what they found as one report."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from llmspec.bench.peer_support import require
from llmspec.bench.report import AGREEMENT, ROUNDED, BenchReport, Row, WorkReport, agree, row
from llmspec.bench.task import MODULES, PEERS, PROMPT, ROWS, WORKS, BenchError, Result, Side, Task, Work, tokens_of
from llmspec.compiler.cost import pass_cost
from llmspec.compiler.plan import Plan
from llmspec.core.problems import Problem, one_of
from llmspec.core.shipped import PACKAGE
from llmspec.forecast.report import Machine

Progress = Callable[[str, int, int], None]
"""progress(what begins, pieces done, pieces in all)."""


def bench(
    plan: Plan,
    *,
    only: Sequence[str] = (),
    against: Sequence[str] = (),
    phase: str | None = None,
    rounds: int = 3,
    steps: int | None = None,
    prompt: int = PROMPT,
    model: str | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measures the machine and a plan's work; `against` names the peers, `only` the works (all where left out).

    The sides take turns in fresh processes, `rounds` times, so that a machine that slows down slows both. `prompt` is
    the tokens of a prompt; `model` is a file or folder whose plan this is, and whose weights are taken.

    Raises:
        BenchError: an unknown name, a peer that is not installed or does not know the model, a process that failed,
            or two sides that do not compute the same.
    """
    works, peers = chosen(only, against)
    if model is not None:
        return _of_model(plan, works, peers, rounds, progress or _silent, steps=steps, prompt=prompt, model=model)
    if "llama.cpp" in peers:
        raise BenchError(
            Problem("llama.cpp reads GGUF files, and this is a spec", hint="give a GGUF file in the spec's place")
        )
    if not plan.phases:
        raise BenchError(
            Problem(
                "this spec has no phases, and a benchmark measures the training step of one",
                hint="add `data:` and `phases:`, as `llmspec new` writes them",
            )
        )
    name = phase or plan.phases[0].name
    if name not in [p.name for p in plan.phases]:
        raise BenchError(Problem(f"there is no phase `{name}`", hint=one_of(name, [p.name for p in plan.phases])))
    plan = plan.of(name)
    for peer in peers:
        require(peer, plan.model)
    task = Task(side="llmspec", work="machine", plan=plan, phase=name, steps=steps, prompt=prompt)
    return _measured(task, works, peers, rounds, progress or _silent)


def _silent(what: str, done: int, total: int) -> None: ...


def _of_model(
    plan: Plan, works: tuple[Work, ...], peers: tuple[Side, ...], rounds: int, progress: Progress, **task: Any
) -> BenchReport:
    """The works that trained weights can do. Raises BenchError for others, and for peers that read no such files."""
    problems = [
        Problem(f"{peer} is compared in what specs describe, with weights of step 0", hint="give a spec instead")
        for peer in peers
        if peer != "llama.cpp"
    ]
    if "llama.cpp" in peers and not task["model"].endswith(".gguf"):
        problems.append(Problem(f"llama.cpp reads GGUF files, and {task['model']} is none", hint="export it to gguf"))
    works = tuple(w for w in works if w != "train")
    if not works:
        problems.append(Problem("a model without a spec has no training step", hint="give a spec, with `phases:`"))
    if problems:
        raise BenchError(problems)
    return _measured(Task(side="llmspec", work="machine", plan=plan, phase="", **task), works, peers, rounds, progress)


def _measured(
    task: Task, works: tuple[Work, ...], peers: tuple[Side, ...], rounds: int, progress: Progress
) -> BenchReport:
    turns = [
        task.model_copy(update={"work": work, "side": side})
        for _ in range(rounds)
        for work in works
        for side in sides(work, peers)
        if work != "machine"
    ]
    if {"machine", "train", "decode"} & set(works):  # shares of the machine's peak and of its memory's rate
        turns.insert(0, task)
    machine, found = taken(turns, progress)
    return BenchReport(
        name=task.plan.name,
        device=task.plan.device,
        parameters=task.plan.model.parameters,
        rounds=rounds,
        machine=machine if "machine" in works else None,
        works=tuple(
            reported(task.model_copy(update={"work": w}), [found[w, s] for s in pair], machine)
            for w in works
            if w != "machine"
            for pair in pairs(sides(w, peers))
        ),
    )


def taken(turns: Sequence[Task], say: Progress) -> tuple[Machine | None, dict[tuple[Work, Side], list[Result]]]:
    """What the processes answer, each task a turn. Raises BenchError, also where a peer computes something else."""
    machine: Machine | None = None
    found: dict[tuple[Work, Side], list[Result]] = defaultdict(list)
    for done, task in enumerate(turns):
        say(f"{task.work}, {task.side}" if task.work != "machine" else "machine", done, len(turns))
        answer = asked(task)
        if task.work == "machine":
            machine = Machine.model_validate_json(answer)
            continue
        found[task.work, task.side].append(Result.model_validate_json(answer))
        if task.side != "llmspec":
            ours, theirs = found[task.work, "llmspec"][-1], found[task.work, task.side][-1]
            agree(ours, theirs, AGREEMENT if task.model is None else ROUNDED)
    say("done", len(turns), len(turns))
    return machine, found


def chosen(only: Sequence[str], against: Sequence[str]) -> tuple[tuple[Work, ...], tuple[Side, ...]]:
    """Works and peers by name. Raises BenchError for unknown names, peers that have nothing to do or are not here."""
    problems = [
        Problem(f"there is nothing called `{name}` to measure", hint=one_of(name, WORKS))
        for name in only
        if name not in WORKS
    ]
    problems += [
        Problem(f"there is no peer called `{name}`", hint=one_of(name, PEERS)) for name in against if name not in PEERS
    ]
    if problems:
        raise BenchError(problems)
    works = tuple(w for w in WORKS if w in only or not only)
    peers = tuple(p for p in PEERS if p in against)
    for peer in peers:
        if not set(PEERS[peer]) & set(works):
            problems.append(
                Problem(
                    f"{peer} is compared in {' and '.join(PEERS[peer])} only", hint=f"add `--only {PEERS[peer][0]}`"
                )
            )
        problems += [
            Problem(
                f"{module} is not installed",
                hint=f"pip install '{'llama-cpp-python' if peer == 'llama.cpp' else 'llmspec[peers]'}'",
                consequence=f"there would be nothing to compare with in {' and '.join(PEERS[peer])}",
            )
            for module in MODULES[peer]
            if importlib.util.find_spec(module) is None
        ]
    if problems:
        raise BenchError(problems)
    return works, peers


def asked(task: Task) -> str:
    """What a fresh process answers the task. Raises BenchError."""
    here = str(PACKAGE.parent)
    path = os.pathsep.join(p for p in (here, os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "llmspec.bench.worker"],
        input=task.model_dump_json(by_alias=True),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        status = f"by signal {-done.returncode}" if done.returncode < 0 else f"with status {done.returncode}"
        raise BenchError(
            Problem(
                f"the process that measured {task.work} on the side of {task.side} ended {status}: {said}",
                hint="a smaller model or batch may fit" if done.returncode < 0 else "",
                consequence="its figures would be missing",
            )
        )
    held: dict[str, Any] = json.loads(lines[-1])
    if "problems" in held:
        raise BenchError(Problem(p["message"], tuple(p["path"]), p["hint"], p["consequence"]) for p in held["problems"])
    return lines[-1]


def sides(work: Work, peers: Sequence[Side]) -> tuple[Side, ...]:
    """Who does this work, in turns: llmspec, and the peers that are compared in it."""
    return ("llmspec", *(p for p in peers if work in PEERS[p]))


def pairs(taking_part: Sequence[Side]) -> tuple[tuple[Side, ...], ...]:
    """Our side beside each peer; alone where there is none."""
    ours, *peers = taking_part
    return tuple((ours, peer) for peer in peers) or ((ours,),)


def reported(task: Task, found: list[list[Result]], machine: Machine | None) -> WorkReport:
    """The report of one work from what the processes of each side measured, llmspec's first and a peer's after it."""
    work, ours, theirs = task.work, found[0], found[1] if len(found) > 1 else []
    seconds = [tuple(median(r.seconds) for r in side) for side in (ours, theirs)]
    memory = row(work, "peak memory", "bytes", *(tuple(float(r.peak_bytes) for r in s) for s in (ours, theirs)))
    flops = step_flops(task) if work == "train" else None

    def rate(amount: float, figure: str, unit: Any) -> Row:
        return row(work, figure, unit, *(tuple(amount / s for s in side) for side in seconds))

    if work == "train":
        rows = [
            row(work, "step", "s", *seconds),
            rate(step_tokens(task), "speed", "tokens/s"),
            *([rate(step_flops(task) / machine.peak_flops, "share of peak", "share")] if machine else []),
        ]
    elif work == "prefill":
        rows = [row(work, "prompt", "s", *seconds), rate(tokens_of(task)[0], "speed", "tokens/s")]
    elif work == "decode":
        rows = [row(work, "token", "s", *seconds), rate(1, "speed", "tokens/s")]
        if all(r.read_bytes and r.memory_rate for r in ours):
            share = tuple(r.read_bytes / s / r.memory_rate for r, s in zip(ours, seconds[0], strict=True))
            rows.append(row(work, "share of memory rate", "share", share, ()))
    else:
        rows = [row(work, "step", "s", *seconds), rate(ROWS, "speed", "tokens/s")]
    return WorkReport(
        work=work,
        what=described(task),
        flops=flops,
        side=ours[0].name,
        peer=theirs[0].name if theirs else None,
        rows=(*rows, memory),
    )


def step_tokens(task: Task) -> int:
    """Tokens of an optimizer step."""
    phase = task.plan.phase(task.phase).phase
    return phase.micro_batch_size * phase.gradient_accumulation_steps * row_tokens(task)


def row_tokens(task: Task) -> int:
    """Tokens of a full row, those of an encoder included."""
    return task.plan.model.context + task.plan.model.encoder_context


def step_flops(task: Task) -> float:
    """FLOPs of the passes of an optimizer step, forward and backward, matrix products only."""
    phase = task.plan.phase(task.phase).phase
    return pass_cost(task.plan.model, phase).products * phase.gradient_accumulation_steps


def described(task: Task) -> str:
    """What is measured, in words."""
    if task.work == "train":
        phase = task.plan.phase(task.phase).phase
        passes = f" × {phase.gradient_accumulation_steps} passes" if phase.gradient_accumulation_steps > 1 else ""
        shape = f"{phase.micro_batch_size} × {row_tokens(task)} tokens{passes}"
        return f"step of {task.phase}: {shape}, {phase.optimizer.kind}"
    prompt, decoded = tokens_of(task)
    rows = ROWS if task.work == "batch" else 1
    return (
        f"a prompt of {prompt} tokens"
        if task.work == "prefill"
        else f"{decoded} tokens after {prompt + 1}, batch {rows}"
    )
