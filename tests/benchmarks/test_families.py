"""A training step of each published architecture, at d 256 and with 4 layers, beside PyTorch.

pytest -n 0 -s -m benchmark "tests/benchmarks/test_families.py::test_step[mistral-7b]"

Each row alone, on a quiet machine, in fresh processes in turns. Ratios are of times: less is better. The cells of
docs/families.md are made from pytest's report of these rows (`--junitxml`, docs/families.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from families import Record, family_of, tell
from test_architectures import published

from llmspec.bench.run import bench
from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.core import shipped
from llmspec.spec import load_spec

pytestmark = pytest.mark.benchmark
SPECS = Path(__file__).parents[2] / "specs"
NAMES = sorted({*(p.stem for p in (SPECS / shipped.ARCHITECTURES).glob("*.yaml")), "gpt2-124m", "llama2-7b"})
WIDTH, HEADS, CONTEXT, LAYERS, ROWS, WINDOW = 256, 4, 128, 4, 8, 32
ROUNDS = 3


def widths(at: str, section: dict[str, Any], width: int) -> Iterator[str]:
    """Overrides of the sizes that a section names: heads of 64, hidden layers in the published ratio to the width."""
    for kind in ("attention", "cross_attention"):
        attention = section.get(kind) or {}
        sizes = {"heads": HEADS, "kv_heads": min(2, attention.get("kv_heads", 2)), "head_dim": WIDTH // HEADS}
        yield from (f"{at}.{kind}.{key}={size}" for key, size in sizes.items() if key in attention)
    mlp = section.get("mlp") or {}
    for inside in ("mlp", "mlp.expert", "mlp.shared"):
        own = mlp if inside == "mlp" else mlp.get(inside.removeprefix("mlp.")) or {}
        if "d_ff" in own:
            yield f"{at}.{inside}.d_ff={max(32, round(own['d_ff'] * WIDTH / width / 32) * 32)}"
    if "experts" in mlp:
        yield f"{at}.mlp.experts={min(8, mlp['experts'])}"
        yield f"{at}.mlp.top_k={min(2, mlp['top_k'])}"
    if (section.get("mask") or {}).get("window"):
        yield f"{at}.mask.window={WINDOW}"
    if fraction := (section.get("position") or {}).get("fraction"):  # of whole pairs
        yield f"{at}.position.fraction={2 * round(fraction * WIDTH / HEADS / 2) / (WIDTH // HEADS)}"
    if "original_context" in ((section.get("position") or {}).get("scaling") or {}):
        yield f"{at}.position.scaling.original_context={CONTEXT // 2}"
    if "layers" in section:
        yield f"{at}.layers={LAYERS}"


def phase_of(model: dict[str, Any]) -> str:
    """The kind of phase that trains a network: by masked tokens where tokens see what follows them."""
    return "masked_lm" if (model.get("mask") or {}).get("kind") == "bidirectional" else "pretrain"


def plan_of(name: str) -> Plan:
    """An architecture with every part, at the size of the benchmark, and a phase that trains it."""
    path = shipped.find(Path(name))
    assert path is not None
    spec = load_spec(path).spec.model_dump(mode="json", exclude_unset=True)
    written = yaml.safe_load(path.read_text("utf-8"))
    model = written["model"]
    below = [("model.encoder", model["encoder"])] if model.get("encoder") else []
    below += [(f"model.blocks.{block}", own) for block, own in model.get("blocks", {}).items()]
    overrides = [
        "device=CPU",
        f"model.context={CONTEXT}",
        f"model.d_model={WIDTH}",
        "model.dropout=0",
        "model.vocab=2048",
        "tokenizer={kind: byte, special_tokens: [pad, mask]}",
        *widths("model", model, model["d_model"]),
        *(line for at, own in below for line in widths(at, own, model["d_model"])),
        *(f"phases.{phase}=null" for phase in spec.get("phases", {})),
        "data.sources={text: {kind: inline, documents: [x]}}",
        f"phases.train={{kind: {phase_of(model)}, mixture: {{text: 100%}}, budget: 100 steps, "
        f"micro_batch_size: {ROWS}, optimizer: {{kind: adamw, lr: 1e-3}}}}",
    ]
    if late := [block for block in model.get("blocks", {}) if block not in model["pattern"][:LAYERS]]:
        pattern = [*model["pattern"][: LAYERS - len(late)], *late]
        overrides.append(f"model.pattern=[{', '.join(pattern)}]")
    if "scale" in ((model.get("heads") or {}).get("lm") or {}):
        overrides.append(f"model.heads.lm.scale={WIDTH**-0.5}")
    return compile_spec(load_spec(path, overrides).spec, base=str(path.parent))


@pytest.mark.parametrize("name", NAMES)
def test_step(name: str, record_property: Record) -> None:
    pytest.importorskip("torch")
    plan = plan_of(name)
    report = bench(plan, only=["train"], against=["torch"], rounds=ROUNDS)
    found, memory = report.row("train", "step"), report.row("train", "peak memory")
    assert found.ratio is not None
    tell(record_property, family_of(published(name), name), step=f"{found.ratio:.2f}")
    print(
        "\n"
        + json.dumps(
            {
                "row": f"training step, {name}",
                "llmspec": found.ours,
                "peer": found.peer,
                "ratio": round(found.ratio, 3),
                "spread": [round(found.low or 0, 3), round(found.high or 0, 3)],
                "memory": [memory.ours, memory.peer],
                "at_most": 1.0,
            }
        )
    )
    assert found.ratio <= 1.0
