"""The shipped specs of published architectures at tiny size: every part and setting of a spec but the sizes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny
import yaml

from llmspec.compiler import Plan, compile_spec
from llmspec.core import shipped
from llmspec.spec import load_spec

ARCHITECTURES = sorted(path.stem for path in (tiny.ROOT / "specs" / shipped.ARCHITECTURES).glob("*.yaml"))
WITH_DATA = ("gpt2-124m", "gpt3-175b", "llama2-7b")
"""Architectures whose specs have data and phases, too."""
CONTEXT, WIDTH, ROWS, STEPS = 24, 40, 4, 20
SOURCE = 16
"""Tokens that an encoder reads."""


def has(section: dict[str, Any], path: str) -> bool:
    """Whether a section has a key at a path."""
    key, _, rest = path.partition(".")
    return key in section and (not rest or has(section[key], rest))


def sizes(at: str, section: dict[str, Any]) -> Iterator[str]:
    """Overrides that make the parts of a section small; what it does not say is not said here either."""
    attention, window = section.get("attention", {}), section.get("mask", {}).get("window")
    if "heads" in attention:
        yield f"{at}.attention.heads=4"
    if "heads" in section.get("cross_attention", {}):
        yield f"{at}.cross_attention.heads=4"
    if "kv_heads" in attention:
        yield f"{at}.attention.kv_heads={min(2, attention['kv_heads'])}"
    if "head_dim" in attention:
        yield f"{at}.attention.head_dim=12"
    mlp = section.get("mlp", {})
    yield from (f"{at}.mlp.{inside}d_ff=48" for inside in ("", "expert.", "shared.") if has(mlp, f"{inside}d_ff"))
    yield from (f"{at}.mlp.{key}={most}" for key, most in {"experts": 5, "top_k": 2}.items() if key in mlp)
    if window:
        yield f"{at}.mask.window=6"
    if "scale" in section.get("heads", {}).get("lm", {}):
        yield f"{at}.heads.lm.scale={WIDTH**-0.5}"
    if "original_context" in (section.get("position", {}).get("scaling") or {}):
        yield f"{at}.position.scaling.original_context=8"


def small(name: str) -> Plan:
    """The plan of an architecture with every block, at tiny size, and a phase that trains it."""
    path = shipped.find(Path(name))
    assert path is not None
    spec = yaml.safe_load(path.read_text())
    model, pattern = spec["model"], spec["model"].get("pattern", [])
    layers = max([2, *(pattern.index(block) + 1 for block in model.get("blocks", {}))])
    masked = model.get("mask", {}).get("kind") == "bidirectional"
    overrides = [
        "device=CPU",
        f"model.context={CONTEXT}",
        f"model.d_model={WIDTH}",
        f"model.layers={layers}",
        "model.dropout=0",
        "model.vocab=272",
        "tokenizer={kind: byte, special_tokens: [pad, mask]}",
        *sizes("model", model),
        *(line for block, own in model.get("blocks", {}).items() for line in sizes(f"model.blocks.{block}", own)),
        *([f"model.encoder.context={SOURCE}", "model.encoder.layers=2"] if "encoder" in model else []),
        *(f"phases.{phase}=null" for phase in spec.get("phases", {})),
        "data.sources={text: {kind: inline, documents: [x]}}",
        f"phases.tiny={{kind: {'masked_lm' if masked else 'pretrain'}, mixture: {{text: 100%}}, budget: {STEPS} steps, "
        f"micro_batch_size: {ROWS}, optimizer: {{kind: adamw, lr: 1e-2}}}}",
    ]
    return compile_spec(load_spec(path, overrides).spec)
