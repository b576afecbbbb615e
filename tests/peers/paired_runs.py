"""A decoder that is trained on pairs in some seconds, of a form that transformers and llama.cpp have."""

from __future__ import annotations

from pathlib import Path

from test_pairs_run import SPEC, write

import llmspec
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder

SOURCES = ("001", "042", "333", "907")
"""Numbers, whose digits are its answers."""


def trained(folder: Path) -> Path:
    """The run of digits to their names, without an encoder."""
    network = "  mask: {kind: causal}\n  norm: {kind: rmsnorm}\n"
    text = SPEC.replace("  encoder: {layers: 1, context: 12}\n", network).replace("context: 24", "context: 40")
    text = text.replace("kind: gelu", "kind: swiglu").replace("160 steps", "80 steps")
    spec = load_spec(write(folder, text), ["phases.learn.generate_metrics=0"]).spec
    return Path(llmspec.run(llmspec.compile(spec), folder / "run", watcher=Recorder()).path)
