"""A spec that trains in seconds on text every Python has, for tests that run the whole product."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FACTS = """\
    facts:
      kind: inline
      validation: tail 20%
      max_epochs: 500
      records:
        - {q: "one", a: "uno"}
        - {q: "two", a: "dos"}
        - {q: "three", a: "tres"}
        - {q: "four", a: "cuatro"}
        - {q: "five", a: "cinco"}
        - {q: "six", a: "seis"}
        - {q: "seven", a: "siete"}
        - {q: "eight", a: "ocho"}
        - {q: "nine", a: "nueve"}
        - {q: "ten", a: "diez"}
      text: "{q}: {a}"
      dialogue: {user: "{q}", assistant: "{a}"}
"""
"""A source of ten records, as text and as dialogues."""

TINY = (
    """\
name: tiny
seed: 7
device: CPU
model:
  context: 16
  d_model: 16
  layers: 1
  position: {kind: rope}
  attention: {heads: 2, kv_heads: 1}
  mlp: {kind: swiglu, d_ff: 32}
  dropout: 0.1
tokenizer: {kind: byte}
data:
  sources:
    docs: {kind: python_docs, validation: tail 1%, license: PSF-2.0}
"""
    + FACTS
    + """\
phases:
  pretrain:
    kind: pretrain
    mixture: {docs: 100%}
    budget: 24 steps
    micro_batch_size: 4
    gradient_accumulation_steps: 2
    optimizer: {kind: muon, lr: 1e-2, adamw: {lr: 1e-3}}
    schedule: {kind: cosine, warmup: 10%}
    evaluate_every: 12 steps
    checkpoint_every: 3 steps
    sample_every: 12 steps
    document_mask: true
  chat:
    kind: sft
    from: pretrain
    mixture: {facts: 80%, docs: 20%}
    budget: 12 steps
    micro_batch_size: 4
    evaluate_every: 6 steps
    checkpoint_every: 2 steps
    sample_every: 12 steps
    prompts: ["one"]
decoding: {temperature: 0.8, max_tokens: 12}
"""
)

ABSENT = "CUDA" if sys.platform == "darwin" else "METAL"
"""A device that this machine certainly has not."""


def write(folder: Path, text: str = TINY, name: str = "tiny.yaml") -> Path:
    """The spec as a file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def command(*arguments: str | Path) -> list[str]:
    """The installed command's arguments, run from this checkout."""
    return [sys.executable, "-m", "llmspec", *map(str, arguments)]


def unhurried(errors: str) -> str:
    """Standard error without the lines that tell why it takes long: on a busy machine more take long."""
    return "".join(line for line in errors.splitlines(keepends=True) if not line.endswith(" …\n"))


def call(
    *arguments: str | Path, cwd: Path | None = None, timeout: float | None = 600, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs llmspec to its end, or for `timeout` seconds; output as text."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, env=env, timeout=timeout)
