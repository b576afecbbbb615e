"""What `explain SPEC` says: the tree, the masks, the learning rates, the sources; and that it fits the terminal."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
from test_explain import as_json, assert_fits, measured, planned, printed, tiny
from tiny import write

from llmspec.compiler import compile_spec
from llmspec.explain.model import TreeNode, folded
from llmspec.explain.spec import explain_plan
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec


def leaves(node: TreeNode) -> list[TreeNode]:
    return [leaf for child in node.children for leaf in leaves(child)] if node.children else [node]


def test_the_tree_adds_up_to_the_tensor_table() -> None:
    report = explain_plan(planned())
    total = sum(math.prod(t.shape) for t in report.tensors)
    assert report.parameters == report.model.parameters == total == sum(n.parameters for n in leaves(report.model))
    assert sum(n.share for n in leaves(report.model)) == pytest.approx(1)
    (layers,) = (n for n in report.model.children if n.name == "layers")
    assert layers.times == 3 and layers.parameters == sum(t.parameters for t in report.tensors if "layers" in t.name)


def test_a_matrix_is_drawn_as_data_flows_through_it() -> None:
    report = explain_plan(
        planned(model={"context": 32, "d_model": 16, "layers": 2, "mlp": {"kind": "gelu", "d_ff": 48, "bias": True}})
    )
    (up,) = (n for n in leaves(report.model) if n.name == "up_proj")
    assert up.shape == "16 → 48 + bias" and up.parameters == 2 * (16 * 48 + 48)


def test_data_is_complete_and_the_table_is_folded_only_when_printed() -> None:
    plan = measured()
    report = explain_plan(plan)
    data = as_json(report)
    assert [t["name"] for t in data["tensors"]] == [t.name for t in plan.model.tensors]
    assert [d["path"] for d in data["decisions"]] == [d.path for d in plan.decisions]
    assert [p["name"] for p in data["phases"]] == ["pretrain", "chat"]
    assert data["report"] == "spec" and data["sources"][1]["attribution"] == "Somebody"
    assert data["flops"] == pytest.approx(sum(p.flops or 0 for p in plan.phases))
    groups = folded(report.tensors)
    assert sum(copies for _, copies, _ in groups) == len(report.tensors)
    assert ("layers.*.mlp.up_proj.weight", 3) in {(name, copies) for name, copies, _ in groups}
    text = printed(report, 140)
    assert "layers.*.mlp.up_proj.weight" in text and "layers.1.mlp" not in text


def test_masks_are_drawn_from_the_relation_itself() -> None:
    causal, own = explain_plan(planned()).masks
    assert causal.used_by == ("pretrain",) and own.used_by == ("chat",)
    for q, row in enumerate(own.allowed):
        assert row == tuple(k <= q and own.documents[k] == own.documents[q] for k in range(len(row)))
        assert causal.allowed[q] == tuple(k <= q for k in range(len(row)))


def test_learning_rates_are_those_of_the_loop() -> None:
    plan = planned()
    (pretrain, _) = explain_plan(plan).phases
    phase = plan.phase("pretrain").phase
    assert pretrain.learning_rate[0][0] == 1 and pretrain.learning_rate[-1][0] == 40
    for step, rate in pretrain.learning_rate:
        assert rate == phase.optimizer.lr * phase.schedule.factor(step - 1, 40)


def test_what_is_learned_of_each_source() -> None:
    found = [[s.learned for s in p.shares] for p in explain_plan(planned()).phases]
    assert found == [["every token"] * 2, ["turns of assistant, and where they end"]]


@pytest.mark.parametrize("name", phase_kinds.KINDS)
def test_every_kind_says_what_it_learns(name: str, tmp_path: Path) -> None:
    """What is drawn, hidden, compared or told is no "every token", and no turn that stands in the data."""
    text, sets = phase_kinds.spec_of(name)
    plan = compile_spec(load_spec(write(tmp_path, text), sets).spec)
    (report,) = [p for p in explain_plan(plan).phases if p.name == "phase"]
    phase = plan.phase("phase").phase
    plain = not (phase.templated or phase.pairs or phase.apart or phase.cuts or phase.reads or phase.objective.drawn)
    (learned,) = [share.learned for share in report.shares]
    assert (learned == "every token") == plain, learned
    assert ("turns of assistant" in learned) == (phase.dialogues and not phase.prompted), learned


def test_filters_on_the_example() -> None:
    effects = {e.filter: e for e in explain_plan(planned()).decoding.effects}
    assert list(effects) == ["", "penalties", "temperature", "top_p"]
    assert effects["penalties"].settings == "frequency_penalty 0.2" and effects["temperature"].settings == "0.8"
    assert effects["temperature"].entropy_bits < effects["penalties"].entropy_bits
    assert effects["top_p"].kept < effects["temperature"].kept == effects[""].kept == 1000
    greedy = explain_plan(planned(decoding={"temperature": 0})).decoding
    assert (greedy.effects[-1].kept, greedy.effects[-1].entropy_bits) == (1, 0)


@pytest.mark.parametrize(
    "decoding",
    [
        {},
        {
            "top_k": 5,
            "min_p": 0.1,
            "top_p": 0.5,
            "temperature": 2.0,
            "repetition_penalty": 1.3,
            "stop": ["<|user|>", "\x1b[31m"],
        },
    ],
)
def test_a_spec_fits_any_terminal(decoding: dict[str, Any]) -> None:
    assert_fits(explain_plan(planned(decoding=decoding), "token counts are missing: " + "nobody knows " * 12))
    assert_fits(explain_plan(measured()))


def test_a_budget_that_waits_for_the_data() -> None:
    spec = tiny()
    spec["phases"]["chat"]["budget"] = "3 epochs of facts"
    report = explain_plan(compile_spec(Spec.model_validate(spec)))
    assert report.flops is None and report.phases[1].steps is None and report.phases[1].learning_rate == ()
    assert "known once the text has been read" in " ".join(printed(report, 140).split())
    as_json(report)


def test_layers_are_told_of_each_stack() -> None:
    spec = tiny()
    assert f"{spec['model']['layers']} layers, " in printed(explain_plan(compile_spec(Spec.model_validate(spec))), 100)
    spec["model"] |= {"encoder": {"layers": 3}, "cross_attention": {}}
    text = printed(report := explain_plan(compile_spec(Spec.model_validate(spec))), 100)
    assert f"3 encoder and {spec['model']['layers']} decoder layers" in text
    assert report.encoder_layers == 3


def test_a_model_of_175_billion_parameters_is_explained_at_once() -> None:
    spec = tiny(
        model={
            "context": 2048,
            "d_model": 12288,
            "layers": 96,
            "position": {"kind": "learned"},
            "attention": {"heads": 96, "bias": True},
            "mlp": {"kind": "gelu", "bias": True},
            "norm": {"kind": "layernorm"},
        },
        tokenizer={"kind": "bpe", "vocab": 50257},
        memory_limit="500 TiB",
    )
    spec["phases"]["pretrain"] |= {"budget": "300B tokens", "micro_batch_size": 1563}
    plan = compile_spec(Spec.model_validate(spec))
    began = time.process_time()
    printed(report := explain_plan(plan), 80)
    assert time.process_time() - began < 1.0
    assert 174e9 < report.parameters < 176e9
    assert len(report.tensors) == len(plan.model.tensors) and max(len(p.learning_rate) for p in report.phases) <= 120
    assert_fits(report)


def test_explaining_a_spec_imports_no_tensor_library() -> None:
    code = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "import test_explain as t; from llmspec.explain.spec import explain_plan\n"
        "t.printed(explain_plan(t.planned()), 80)\n"
        "assert not {'tinygrad', 'torch', 'plotext'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_remarks_on_a_plan() -> None:
    few, unlicensed = explain_plan(planned()).remarks
    assert "tokens per parameter, less" in few and "plain" in unlicensed
    spec = tiny()
    spec["phases"]["pretrain"]["budget"] = "10M tokens"
    assert "tokens per parameter, more" in explain_plan(compile_spec(Spec.model_validate(spec))).remarks[0]
