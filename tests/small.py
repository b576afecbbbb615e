"""A run of two phases of four steps each, in this process: for tests that do things to runs."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

SPEC = (
    """\
name: small
seed: 7
device: CPU
model:
  context: 16
  d_model: 16
  layers: 1
  attention: {heads: 2}
  mlp: {kind: relu, d_ff: 32}
tokenizer: {kind: bpe, vocab: 267}
data:
  sources:
"""
    + tiny.FACTS
    + """\
phases:
  pretrain: {kind: pretrain, mixture: {facts: 100%}, budget: 4 steps, micro_batch_size: 2, checkpoint_every: 2 steps}
  chat:
    kind: sft
    from: pretrain
    mixture: {facts: 100%}
    budget: 4 steps
    micro_batch_size: 2
    checkpoint_every: 2 steps
    prompts: ["one"]
decoding: {temperature: 0.8, max_tokens: 4}
"""
)


def plan(*overrides: str) -> Any:
    """Its plan, with some keys overridden."""
    import tempfile

    import llmspec

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.yaml"
        path.write_text(SPEC, encoding="utf-8")
        return llmspec.compile(llmspec.load_spec(path, list(overrides)).spec)


def trained(folders: pytest.TempPathFactory) -> Path:
    """The run, made once in this process."""
    if not _MADE:
        import llmspec

        _MADE.append(llmspec.run(plan(), folders.mktemp("small") / "run").path)
    return _MADE[0]


_MADE: list[Path] = []


def Heard() -> Any:
    """A watcher that keeps what it is told."""
    from llmspec.training.callbacks import Recorder

    return Recorder()


def call(*arguments: str) -> tuple[int, str]:
    """(exit status, what was printed) of a command line, run in this process."""
    from llmspec import cli
    from llmspec.render import terminal

    out, before = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), sys.argv
    sys.argv = ["llmspec", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        sys.argv = before
        terminal.settle()
    out.seek(0)
    status = ended.value.code
    return (status if isinstance(status, int) else int(status is not None)), out.read()


def as_nobody(do: Callable[[], str]) -> str:
    """What a function says when it is called as another user, in a child of this process."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.write(write, do().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as f:
        said = f.read().decode()
    os.waitpid(child, 0)
    return said
