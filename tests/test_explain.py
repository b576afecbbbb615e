"""What `explain` says of specs, runs and answers, and that it fits the terminal."""

from __future__ import annotations

import io
import itertools
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from strategies_decoding import HashDecoder, ToyCodec

from llmspec.compiler import Plan, compile_spec
from llmspec.compiler.plan import Measured, SharePlan, SourcePlan
from llmspec.core.problems import RunError
from llmspec.core.visible import visible
from llmspec.explain.decoding import explain_prompt, spelled
from llmspec.explain.model import Node, folded
from llmspec.explain.report import Report
from llmspec.explain.run import counts_of, explain_run
from llmspec.explain.spec import explain_plan
from llmspec.render.reports import show
from llmspec.render.terminal import Screen
from llmspec.runs.files import write_json, write_text
from llmspec.runs.run import RunFolder
from llmspec.spec.decoding import Decoding
from llmspec.spec.schema import Spec

WIDTHS = (40, 80, 140)


def tiny(**changes: Any) -> dict[str, Any]:
    """A small spec as YAML would give it, two phases on two inline sources."""
    facts = {
        "kind": "inline",
        "records": ({"q": "What is a comet?", "a": "a small body of ice."},) * 4,
        "license": "CC BY-SA 4.0",
        "attribution": "Somebody",
        "validation": "tail 25%",
        "text": "{q} {a}",
        "dialogue": {"user": "{q}", "assistant": "{a}"},
    }
    return {
        "name": "tiny",
        "seed": 3,
        "device": "CPU",
        "model": {"context": 32, "d_model": 16, "layers": 3, "attention": {"heads": 4, "kv_heads": 2}},
        "data": {"sources": {"plain": {"kind": "inline", "documents": ("to be or not to be " * 9,)}, "facts": facts}},
        "phases": {
            "pretrain": {
                "kind": "pretrain",
                "mixture": {"plain": "75%", "facts": "25%"},
                "budget": "40 steps",
                "micro_batch_size": 2,
                "schedule": {"kind": "cosine", "warmup": "10%"},
                "prompts": ("to",),
            },
            "chat": {
                "kind": "sft",
                "from": "pretrain",
                "mixture": {"facts": "100%"},
                "budget": "8 steps",
                "micro_batch_size": 2,
            },
        },
        "decoding": {"temperature": 0.8, "top_p": 0.95, "frequency_penalty": 0.2, "max_tokens": 6, "stop": ("\n",)},
        **changes,
    }


def planned(**changes: Any) -> Plan:
    return compile_spec(Spec.model_validate(tiny(**changes)))


def measured() -> Plan:
    """The tiny plan with counts, as reading the data would give them."""
    plan = planned()

    def share(source: str, part: float, blocks: int, left_out: int = 0) -> SharePlan:
        return SharePlan(
            source=source,
            share=part,
            blocks=blocks,
            seen=blocks * 32,
            supervised=blocks * 30,
            left_out=left_out,
            repeated=0,
            epochs=1.5,
        )

    sources = tuple(
        SourcePlan(
            name=s.name,
            source=s.source,
            documents=4,
            train_tokens=900,
            validation_tokens=100,
            train_characters=2700,
            validation_characters=300,
            in_both=1,
        )
        for s in plan.sources
    )
    phases = {"pretrain": (share("plain", 0.75, 60), share("facts", 0.25, 20)), "chat": (share("facts", 1.0, 16, 2),)}
    found = Measured(fingerprint="f", sources=sources, phases=phases, fingerprints={name: name for name in phases})
    return compile_spec(Spec.model_validate(tiny()), found)


def printed(report: Report, width: int, terminal: bool = False) -> str:
    """What `show` prints on a terminal of a width, or into a file."""
    out = io.StringIO()
    show(report, Screen(file=out, width=width, force_terminal=terminal, color_system=None, legacy_windows=False))
    return out.getvalue()


def assert_fits(report: Report) -> None:
    for width, terminal in itertools.product(WIDTHS, (False, True)):
        wide = [line for line in printed(report, width, terminal).splitlines() if cell_len(line) > width]
        assert not wide, f"wider than {width}: {wide[:3]}"


def as_json(report: Report) -> dict[str, Any]:
    """The report's data, once written as strict JSON and read back."""
    data = report.as_data()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    return data


# -- specs ---------------------------------------------------------------------------------------------------------
def leaves(node: Node) -> list[Node]:
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


# -- runs ----------------------------------------------------------------------------------------------------------
def begun(folder: Path, plan: Plan | None = None) -> RunFolder:
    """A run directory with nothing but its plan."""
    write_json(folder / "plan.json", (plan or measured()).dump())
    return RunFolder.open(folder)


def trained(run: RunFolder, name: str, steps: int, rising: bool = False, done: bool = True) -> None:
    """Writes what a phase leaves behind."""
    plan = run.plan().phase(name)
    place = run.phase(name)
    place.folder.mkdir(parents=True)
    for step in range(1, steps + 1):
        place.metrics.append({"step": step, "loss": 5 * math.exp(-step / 20), "lr": 1e-3, "norm": 2.0, "tokens": 60})
        place.timing.append({"step": step, "seconds": 3.0 if step == 1 else 0.1})
        if step % 10 == 0:
            nats = 100 * (1 + step / 40 if rising else 3 - step / 40)
            score = {"nats": nats, "tokens": 100, "characters": 300}
            place.metrics.append({"step": step, "validation": {"facts": score}})
            place.samples.append(
                {
                    "step": step,
                    "prompt": "to\n",
                    "text": "be \x1b[31mred\a or\tnot " * 40,
                    "finish_reason": "max_tokens",
                }
            )
    ledger = [
        {"source": s.source, "blocks": s.blocks, "seen": s.seen, "supervised": s.supervised, "repeated": 0}
        for s in plan.shares
    ]
    place.note(key=plan.key, done=done, **({"ledger": ledger} if done else {}))


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    run = begun(tmp_path)
    report = explain_run(run)
    assert report.state == "pretrain has not begun" and report.seconds == 0 and report.machine == ""
    assert [p.state for p in report.phases] == ["waiting", "waiting"]
    as_json(report)
    assert_fits(report)
    write_text(tmp_path / "lock.json", "{")
    with pytest.raises(RunError, match=r"lock\.json is damaged"):
        explain_run(run)


def test_a_run_that_was_cut_short(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 7, done=False)
    with run.phase("pretrain").metrics.path.open("a") as f:
        f.write('{"step": 8, "lo')
    report = explain_run(run)
    assert report.state == "in pretrain, after step 7 of 40" and not report.phases[0].validation
    assert "after step 7 of 40" in printed(report, 80)
    as_json(report)
    assert_fits(report)


def test_a_phase_of_one_step_and_an_empty_one(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 1, done=False)
    trained(run, "chat", 0, done=False)
    assert_fits(explain_run(run))


def test_a_whole_run(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40)
    trained(run, "chat", 8)
    write_json(tmp_path / "lock.json", {"system": "Linux", "machine": "x86_64", "packages": {"tinygrad": "0.14.0"}})
    report = explain_run(run)
    assert report.state == "done" and report.machine == "Linux x86_64"
    assert report.seconds == pytest.approx(3 + 39 * 0.1 + 3 + 7 * 0.1)
    pretrain = report.phases[0]
    assert pretrain.tokens_per_second == pytest.approx(64 / 0.1) and pretrain.clipped == 1.0
    last = pretrain.validation[0].scores[-1]
    assert last.nats_per_token == pytest.approx(2.0) and last.nats_per_character == pytest.approx(2 / 3)
    assert last.perplexity == pytest.approx(math.e**2) and last.step == 40
    assert not any(row.differences for row in pretrain.ledger) and "as planned" in printed(report, 80)
    data = as_json(report)
    assert len(data["phases"][0]["loss"]["steps"]) == 40 and len(data["phases"][0]["samples"]) == 4
    assert {s["source"]: s["attribution"] for s in data["sources"]} == {"plain": "", "facts": "Somebody"}
    assert_fits(report)


def test_a_chart_on_a_terminal_and_a_line_elsewhere(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40)
    report = explain_run(run)
    braille = {chr(c) for c in range(0x2801, 0x2900)}
    assert braille & set(printed(report, 80, terminal=True)) and not braille & set(printed(report, 80))
    assert not braille & set(printed(report, 50, terminal=True)), "too narrow for a chart"
    assert "\x1b" not in printed(report, 80) + printed(report, 80, terminal=True), "text never reaches the terminal raw"


def test_overfitting_is_remarked(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40, rising=True)
    assert any("overfitting" in r and "step 10" in r for r in explain_run(run).remarks)
    other = begun(tmp_path / "other")
    trained(other, "pretrain", 40)
    assert not any("overfitting" in r for r in explain_run(other).remarks)


def test_a_ledger_that_is_not_as_planned(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 40)
    place = run.phase("pretrain")
    rows = place.about["ledger"]
    rows[0]["seen"] -= 5
    place.note(ledger=rows)
    report = explain_run(run)
    assert report.phases[0].ledger[0].differences == ("seen",)
    assert any("plain: seen 1,915, planned 1,920" in r for r in report.remarks)
    assert "not as planned" in printed(report, 80)


def test_both_forms_of_a_saved_ledger() -> None:
    counts = {"plays": {"seen": 3, "supervised": 2, "repeated": 0}}
    assert counts_of({"counts": counts, "order": "ab"}) == counts == counts_of([{"source": "plays", **counts["plays"]}])
    assert counts_of(None) == counts_of({}) == counts_of([]) == {}


def test_a_phase_of_another_plan_is_named(tmp_path: Path) -> None:
    run = begun(tmp_path)
    trained(run, "pretrain", 3)
    run.phase("pretrain").note(key="other")
    report = explain_run(run)
    assert report.phases[0].state == "of another plan" and "other settings" in printed(report, 80)


# -- decoding ------------------------------------------------------------------------------------------------------
def model(**settings: Any) -> Any:
    """What explain_prompt asks of a LanguageModel, over a decoder without weights."""
    pieces = b" the", b"\n", "é".encode()[:1], "漢字".encode(), b"a", b"\x1b[31m", b" comet" * 6, b"\xff", b"x\ty"
    codec = ToyCodec(pieces)
    source = SimpleNamespace(name="wiki", source=SimpleNamespace(license="CC BY-SA 4.0", attribution="Somebody"))
    base = Decoding(**{"max_tokens": 8, **settings})
    return SimpleNamespace(
        plan=SimpleNamespace(name="toy", sources=(source,)),
        phase="chat",
        chat=False,
        codec=codec,
        decoder=HashDecoder(codec.vocab),
        settings=lambda **more: base.updated(**more),
        tokens=lambda prompt: [0, 6, 7],
        seed=lambda given, found: 7 if given is None else given,
    )


ALL_ON = {"temperature": 0.7, "top_p": 0.9, "top_k": 9, "min_p": 0.01, "frequency_penalty": 0.5}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.8}, ALL_ON, {"temperature": 0}])
def test_an_answer_is_explained_as_it_is_drawn(settings: dict[str, Any]) -> None:
    from llmspec.decoding import generate

    report = explain_prompt(model(), "hello", seed=5, top=3, **settings)
    fake = model()
    (answer,) = generate(fake.decoder, fake.codec, [[0, 6, 7]], fake.settings(**settings), seed=5)
    assert [t.token for t in report.tokens] == answer.tokens
    assert (report.text, report.finish_reason) == (answer.text, answer.finish_reason)
    columns = 1 + len(report.filters)
    for token, choice in zip(report.tokens, answer.choices, strict=True):
        assert token.logprob == choice.logprob and token.probability == choice.probability
        assert len(token.entropy_bits) == len(token.kept) == columns == len(report.columns)
        (drawn,) = (c for c in token.candidates if c.chosen)
        assert drawn.token == token.token
        assert drawn.probabilities[0] == pytest.approx(math.exp(token.logprob))
        assert drawn.probabilities[-1] == pytest.approx(token.probability)
        assert [c.rank for c in token.candidates[:3]] == [1, 2, 3] and len(token.candidates) in (3, 4)
    as_json(report)
    assert_fits(report)


def test_truncating_filters_leave_fewer_tokens() -> None:
    report = explain_prompt(model(), "hello", top_k=2)
    assert all(t.kept[0] > t.kept[1] == 2 for t in report.tokens)
    assert "–" in printed(report, 80), "a token that was cut"


def test_blocks_stand_side_by_side_where_there_is_room() -> None:
    report = explain_prompt(model(), "hello", temperature=0.7)
    assert len(printed(report, 140).splitlines()) < 0.75 * len(printed(report, 80).splitlines())


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b" a b", "·a·b"),
        (b"\n\t", "⏎⇥"),
        ("é".encode(), "é"),
        ("é".encode()[:1], "\\xc3"),
        (b"\x1b[0m", "\\x1b[0m"),
        ("·".encode(), "\\xb7"),
        ("\u0301".encode(), "\\u0301"),
        ("\u202e".encode(), "\\u202e"),
        (b"", ""),
        ("\U000e0001".encode(), "\\U000e0001"),
        ("漢".encode(), "漢"),
        ("\xa0".encode(), "\\xa0"),
    ],
)
def test_nothing_hides_in_a_token(data: bytes, text: str) -> None:
    assert spelled(data) == text


def test_text_keeps_its_lines_but_not_its_controls() -> None:
    assert visible("a b\n\tc\x1b[31m") == "a b\n\tc\\x1b[31m"
