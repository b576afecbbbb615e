"""`explain` on memory, on one part, and on two specs: what is said follows from the plan, and fits the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny as whole
from test_explain import as_json, assert_fits, measured, planned, printed, tiny

from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.core.problems import SpecError
from llmspec.core.units import duration, flops
from llmspec.explain.compare import explain_difference
from llmspec.explain.part import explain_part, parts_of
from llmspec.explain.spec import explain_plan
from llmspec.render.report_shared import bar, percent, spark
from llmspec.spec.schema import Spec


def changed(**changes: Any) -> Plan:
    """The tiny plan with another chat phase."""
    spec = tiny()
    spec["phases"]["chat"] |= changes
    return compile_spec(Spec.model_validate(spec))


# -- memory --------------------------------------------------------------------------------------------------------
def test_memory_is_that_of_the_plan() -> None:
    plan = planned()
    report = explain_plan(plan, exact={"pretrain": {"weights": 1 << 20, "training step": 1 << 20}})
    pretrain, chat, sampling = report.memory
    assert plan.phase("pretrain").memory is not None
    assert pretrain.peak == sum(amount for _, amount in pretrain.items) == plan.phase("pretrain").memory.peak  # type: ignore[union-attr]
    assert pretrain.exact == (2 << 20) + plan.phase("pretrain").memory.decoding and chat.exact is None  # type: ignore[union-attr]
    assert dict(sampling.items)["weights"] == report.weight_bytes
    text = printed(report, 80)
    assert "as scheduled" in text and "keys and values" in text and "at the peak, in" in text
    assert_fits(report)
    as_json(report)


def test_a_limit_that_the_spec_gives_is_shown_as_its_own() -> None:
    report = explain_plan(planned(memory_limit="8 GiB"))
    assert report.memory_limit == 8 << 30 and "8.0 GiB is the spec's" in " ".join(printed(report, 140).split())
    assert explain_plan(planned(device="CUDA")).memory_limit is None


def test_many_phases_fit_side_by_side() -> None:
    spec = tiny()
    spec["phases"] |= {f"a-longer-name-{i}": {**spec["phases"]["chat"], "from": "chat"} for i in range(5)}
    assert_fits(explain_plan(compile_spec(Spec.model_validate(spec))))


# -- parts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", parts_of(planned()))
def test_every_part_of_a_plan_can_be_explained(path: str) -> None:
    report = explain_part(measured(), path)
    assert report.what and all(s.means for s in report.settings)
    data = as_json(report)
    assert data["report"] == "part" and data["path"] == path
    assert_fits(report)
    text = printed(report, 80)
    assert path in text and all(s.key in text for s in report.settings)


def test_a_part_in_depth() -> None:
    report = explain_part(planned(), "model.attention")
    assert "softmax" in report.formula
    assert report.papers == ("Ainslie et al. 2023, arXiv:2305.13245", "Vaswani et al. 2017, section 3.2")
    assert {s.key: s.value for s in report.settings}["kv_heads"] == 2
    held = sum(copies * row.parameters for _, copies, row in report.tensors)
    whole_model = explain_plan(planned()).model
    (layers,) = (n for n in whole_model.children if n.name == "layers")
    assert held == next(n.parameters for n in layers.children if n.name == "attention")
    assert dict(report.costs)["parameters"].startswith(f"{held:,} ")


def test_the_parts_weights_are_all_weights_but_the_embeddings() -> None:
    plan = planned()
    rows = [
        r
        for path in ("model.position", "model.attention", "model.mlp", "model.norm")
        for _, copies, row in explain_part(plan, path).tensors
        for r in [row.parameters * copies]
    ]
    assert sum(rows) + plan.model.vocab * plan.model.d_model == plan.model.parameters


def test_what_is_no_part_is_a_problem() -> None:
    with pytest.raises(SpecError) as refused:
        explain_part(planned(), "model.atention")
    assert refused.value.problems[0].hint == "did you mean `model.attention`?"


# -- two specs -----------------------------------------------------------------------------------------------------
def test_nothing_differs_from_itself() -> None:
    report = explain_difference(planned(), planned(), ("a", "a"))
    assert report.differences == () and {c.ratio for c in report.consequences} <= {1, None}
    assert {p.fate for p in report.phases} == {"reused"}
    assert_fits(report)


def test_a_changed_phase_is_trained_anew_and_no_other() -> None:
    report = explain_difference(planned(), changed(budget="16 steps"), ("a.yaml", "b.yaml"))
    assert [(d.path, d.first, d.second) for d in report.differences] == [("phases.chat.budget", "8 steps", "16 steps")]
    assert [(p.name, p.fate, p.why) for p in report.phases] == [
        ("pretrain", "reused", ""),
        ("chat", "retrained", "phases.chat.budget"),
    ]
    found = {c.name: c for c in report.consequences}
    assert found["parameters"].ratio == 1 and found["tokens of facts"].ratio != 1
    assert found["tokens of plain"].ratio == 1
    assert_fits(report)
    as_json(report)


def test_another_model_changes_every_phase() -> None:
    wider = {"context": 32, "d_model": 32, "layers": 3, "attention": {"heads": 4, "kv_heads": 2}}
    report = explain_difference(planned(), planned(model=wider), ("a", "b"))
    assert {p.fate for p in report.phases} == {"retrained"}
    assert all("model.d_model" in p.why for p in report.phases)
    parameters = report.consequences[0]
    assert parameters.ratio is not None and parameters.ratio > 2


def test_phases_that_only_one_has() -> None:
    spec = tiny()
    spec["phases"]["late"] = {**spec["phases"]["chat"], "from": "chat"}
    more = compile_spec(Spec.model_validate(spec))
    assert explain_difference(planned(), more, ("a", "b")).phases[-1].fate == "only in the second"
    assert explain_difference(more, planned(), ("a", "b")).phases[-1].fate == "only in the first"
    assert_fits(explain_difference(more, planned(), ("a", "b")))


def test_the_verbs(tmp_path: Path) -> None:
    spec = whole.write(tmp_path)
    more = whole.write(tmp_path, "name: more\nextends: tiny.yaml\nmodel: {layers: 2}\n", "more.yaml")
    pair = json.loads(whole.call("explain", spec, more, "--json").stdout)
    assert pair["report"] == "difference" and [d["path"] for d in pair["differences"]] == ["name", "model.layers"]
    part = whole.call("explain", spec, "--part", "phases.pretrain.schedule", COLUMNS="80")
    assert part.returncode == 0 and "cosine" in part.stdout and "█" in part.stdout
    wrong = whole.call("explain", spec, "--part", "nonsense")
    assert wrong.returncode == 2 and "no part `nonsense`" in wrong.stderr
    tight = whole.call("check", spec, "--set", "memory_limit=64 KiB")
    assert tight.returncode == 2 and "64.0 KiB is the spec's memory_limit" in " ".join(tight.stderr.split())
    no_spec = whole.call("explain", tmp_path / "nowhere", "--part", "tokenizer")
    assert no_spec.returncode == 2 and "Traceback" not in no_spec.stderr
    checked = whole.call("check", spec, "--exact", "--json")
    assert set(json.loads(checked.stdout)["peaks"]) == {"pretrain", "chat"}, checked.stderr
    exact = whole.call("explain", spec, "--exact", "--json")
    assert all(m["exact"] for m in json.loads(exact.stdout)["memory"][:-1]), exact.stderr


# -- numbers and curves --------------------------------------------------------------------------------------------
def test_numbers_for_reading() -> None:
    read = {3.14e23: "314 ZFLOPs", 21.25e12: "21.2 TFLOPs", 37568: "37.6 kFLOPs", 999: "999 FLOPs", None: "?"}
    assert {x: flops(x) for x in read} == read
    assert [percent(x) for x in (0, 1e-5, 0.123, 0.9999, 1)] == ["0.0%", "<0.1%", "12.3%", "100%", "100%"]
    assert spark([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█" and spark([], 8) == ""
    assert spark([5.0] * 3, 9) == "▁▁▁" and spark([5.0] * 3, 9, floor=0.0) == "███"
    assert bar(1, 4) == "████" and bar(0, 4) == "" and bar(0.5, 4) == "██"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3, "3.0s"),
        (75, "1m15s"),
        (3599, "59m59s"),
        (3600, "1h00m"),
        (86_400 * 3.5, "84h00m"),
        (86_400 * 4, "4 days"),
        (86_400 * 729, "729 days"),
        (1e9, "31.7 years"),
        (1e13, "316,881 years"),
    ],
)
def test_a_time_is_told_in_units_that_can_be_imagined(seconds: float, text: str) -> None:
    assert duration(seconds) == text
