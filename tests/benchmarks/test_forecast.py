"""What was foretold of ten trained specs, beside what happened: peak memory and time. On a quiet machine.

pytest -s -m benchmark tests/benchmarks/test_forecast.py

Prints one JSON line a spec. Memory is the most that a phase's tensors held, against tinygrad's own graph (5 %) and the
formulas (15 %). Time is that of the steps once their graphs are captured, against the rates of this machine as they
were just measured, and against an earlier run of the same steps (20 %).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.forecast.estimates import calibrate, expected, forecasts
from llmspec.model.graph_memory import exact
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec

pytestmark = [pytest.mark.benchmark, pytest.mark.network]
SPECS = tiny.ROOT / "specs"
PRETRAIN = [
    "phases.chat=null",
    "phases.pretrain.budget=60 steps",
    "phases.pretrain.evaluate_every=100%",
    "phases.pretrain.sample_every=100%",
]
CHAT = [
    "phases.pretrain=null",
    "phases.chat.from=null",
    "phases.chat.budget=60 steps",
    "phases.chat.evaluate_every=100%",
    "phases.chat.sample_every=100%",
]
GPT = [
    "model.attention={kind: multi_head, heads: 6, bias: true}",
    "model.position={kind: learned}",
    "model.mlp={kind: gelu, bias: true}",
    "model.norm={kind: layernorm}",
    "model.dropout=0.1",
]
TRAINED = {
    "the quickstart": PRETRAIN,
    "dialogues": CHAT,
    "gpt": [*PRETRAIN, *GPT],
    "wide": [*PRETRAIN, "model.d_model=384"],
    "a long context": [*PRETRAIN, "model.context=512", "phases.pretrain.micro_batch_size=4"],
    "many words": [*PRETRAIN, "tokenizer.vocab=8192"],
    "accumulated": [*PRETRAIN, "phases.pretrain.micro_batch_size=2", "phases.pretrain.gradient_accumulation_steps=4"],
    "documents apart": [*PRETRAIN, "phases.pretrain.document_mask=true", "model.position={kind: alibi}"],
    "two layers, a big batch": [*PRETRAIN, "model.layers=2", "phases.pretrain.micro_batch_size=24"],
    "characters": [
        *PRETRAIN,
        "tokenizer={kind: byte}",
        "model.d_model=128",
        "model.attention.heads=4",
        "phases.pretrain.optimizer={kind: adamw, lr: 1e-3}",
    ],
}


@pytest.mark.parametrize("name", TRAINED)
def test_it_came_true(name: str, tmp_path: Path) -> None:
    sets = [*TRAINED[name], "device=CPU"]
    plan = compile_spec(load_spec(SPECS / "quickstart.yaml", sets).spec, base=str(SPECS))
    (phase,) = plan.phases
    assert phase.memory is not None
    command = ["run", SPECS / "quickstart.yaml", *(part for s in sets for part in ("--set", s)), "--out"]
    for turn in ("first", "second"):
        if turn == "second":
            guess, earlier = forecasts(plan, calibrate("CPU"), {})[phase.name], expected(plan)[phase.name]
        done = tiny.call(*command, tmp_path / turn)
        assert done.returncode == 0, done.stderr
    facts = RunFolder(tmp_path / "second").phase(phase.name).about["facts"]
    held, took = facts["held_bytes"], facts["seconds"]["steps"]
    found = {
        "memory, graph": (sum(exact(plan)[phase.name].values()) + phase.memory.decoding) / held,
        "memory, formulas": phase.memory.peak / held,
        "time, rates": guess.steps / took,
        "time, earlier run": earlier.steps / took,
    }
    print(
        "\n"
        + json.dumps(
            {
                "spec": name,
                "held_bytes": held,
                "seconds": round(took, 2),
                **{what: round(ratio, 3) for what, ratio in found.items()},
            }
        )
    )
    limits = {"memory, graph": 0.05, "memory, formulas": 0.15, "time, rates": 0.2, "time, earlier run": 0.2}
    assert {what: r for what, r in found.items() if abs(r - 1) > limits[what]} == {}
