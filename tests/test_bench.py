"""What `llmspec bench` says, and what it refuses to say."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from strategies import specs

import llmspec
from llmspec.bench import llmspec_side, run
from llmspec.bench.batches import batch, prompt
from llmspec.bench.report import BenchReport, WorkReport, agree, row
from llmspec.bench.task import BenchError, Result, Task, tokens_of
from llmspec.compiler import compile_spec
from llmspec.compiler.inputs import documents_apart
from llmspec.compiler.plan import Plan
from llmspec.forecast import machine as machine_room
from llmspec.forecast.report import Machine, Product
from llmspec.forecast.timing import timed
from llmspec.render.report_bench import show
from llmspec.render.terminal import Screen
from llmspec.spec.schema import Spec

MACHINE = Machine(
    processor="A processor with a name of some length, as their makers give them",
    cores=2,
    device="CPU",
    products=(Product(rows=512, inner=512, columns=512, flops_per_second=1.5e11),),
    products_by="a BLAS",
    peak_flops=2e11,
    copy_bytes=1.5e10,
    product_bytes=3e10,
    load=1.2,
)
REPORT = BenchReport(
    name="a-name",
    device="CPU",
    parameters=1_967_808,
    rounds=2,
    machine=MACHINE,
    works=(
        WorkReport(
            work="train",
            what="step of pretrain: 8 × 256 tokens, muon",
            flops=2.9e10,
            side="llmspec, a BLAS",
            peer="torch 2.13.0+cpu",
            rows=(
                row("train", "step", "s", (0.101, 0.1), (0.2, 0.22)),
                row("train", "speed", "tokens/s", (20_000.0, 21_000.0), (10_000.0, 9_000.0)),
                row("train", "share of peak", "share", (0.4, 0.42), (0.2, 0.18)),
                row("train", "peak memory", "bytes", (3e8, 3e8), (4e8, 4e8)),
            ),
        ),
        WorkReport(
            work="decode",
            what="32 tokens after 129, batch 1",
            flops=None,
            side="llmspec, a BLAS",
            peer=None,
            rows=(row("decode", "token", "s", (1.5, 1.6), ()),),
        ),
    ),
)


def compiled(data: dict[str, Any]) -> Plan:
    return compile_spec(Spec.model_validate_json(json.dumps(data)))


def result(name: str, *check: float) -> Result:
    return Result(name=name, seconds=(0.1,), check=check, peak_bytes=1)


@pytest.mark.parametrize("width", [80, 140])
def test_the_report_fits_its_terminal(width: int) -> None:
    out = io.StringIO()
    show(REPORT, Screen(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(out.getvalue().split())
    for words in (
        "1.97M parameters",
        "200 GFLOP/s",
        "train, step",
        "0.48× (0.45–0.51)",
        "torch 2.13.0+cpu",
        "41.0%",
        "1.55 s –",
        "other processes were running",
        "75.0%",
        "29 GFLOPs",
    ):
        assert words in text, words


def test_its_json_reads_back_as_the_same_report() -> None:
    line = REPORT.model_dump_json()
    assert "\n" not in line and BenchReport.model_validate_json(line) == REPORT
    assert REPORT.row("train", "step").ratio == pytest.approx(0.1005 / 0.21)
    with pytest.raises(KeyError):
        REPORT.row("decode", "step")


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=1, max_size=7))
def test_the_ratio_of_medians_and_its_spread(rounds: list[tuple[float, float]]) -> None:
    ours, theirs = zip(*rounds, strict=True)
    made = row("train", "step", "s", ours, theirs)
    assert made.ratio == pytest.approx(float(np.median(ours) / np.median(theirs)))
    assert made.low == min(a / b for a, b in rounds) and made.high == max(a / b for a, b in rounds)


def test_sides_that_differ_get_no_ratio() -> None:
    agree(result("a", 4.0, 1.0), result("b", 4.0003, 1.0))
    for other in ((4.001, 1.0), (float("nan"), 1.0)):
        with pytest.raises(BenchError, match="do not compute the same"):
            agree(result("a", 4.0, 1.0), result("b", *other))
    with pytest.raises(BenchError):
        agree(result("a", float("nan")), result("b", float("nan")))


@given(specs(), st.integers(0, 9))
def test_batches_are_numbers_of_the_plan_alone(data: dict[str, Any], index: int) -> None:
    plan = compiled(data)
    for phase in plan.phases:
        made, again = batch(plan, phase, index), batch(plan, phase, index)
        arrays = [[*(found.labels or ()), *(a for a in found if isinstance(a, np.ndarray))] for found in (made, again)]
        assert all(np.array_equal(one, other) for one, other in zip(*arrays, strict=True))
        shape = (phase.phase.micro_batch_size, plan.model.context)
        assert made.tokens.shape == made.targets.shape == shape and min(made.tokens.min(), made.targets.min()) >= 0
        assert max(made.tokens.max(), made.targets.max()) < plan.model.vocab
        if (objective := phase.phase.objective).reads_whole:
            assert made.targets.max() < phase.model.heads[objective.head].outputs(phase.model.dims)
        else:
            assert (made.tokens[:, 1:] == made.targets[:, :-1]).all()
        assert (made.weights == 1).all()
        starts = (made.positions == 0).sum(axis=1)
        apart = documents_apart(phase.model, phase.phase)
        if objective.documents:
            apart = (objective.places(plan.model.context) or 1) > 1
            head = phase.model.heads[objective.head]
            if "targets" in objective.document_inputs(1, 1 + apart, head):
                assert made.labels is not None and (made.labels.weights.sum(1) == 1 + apart).all()
        assert (starts == (1 + (plan.model.context > 1) if apart else 1)).all()
    assert max(prompt(plan, 50)) < plan.model.vocab


@given(specs(), st.sampled_from(["prefill", "decode"]), st.none() | st.integers(1, 99))
def test_a_prompt_and_its_decoding_fit_the_context(data: dict[str, Any], work: Any, steps: int | None) -> None:
    plan = compiled(data)
    prefix, decoded = tokens_of(Task(side="llmspec", work=work, plan=plan, phase="", steps=steps))
    assert prefix >= 1 and prefix + decoded + (work == "decode") <= plan.model.context
    assert (decoded >= 1) == (work == "decode")


def test_a_clock_stops_by_number_or_by_time() -> None:
    calls: list[int] = []
    assert len(timed(lambda: calls.append(1), 7)) == len(calls) == 7
    assert len(timed(lambda: None, None, seconds=0.0)) == 5
    assert len(timed(lambda: None, None)) == 50


@pytest.mark.parametrize(
    ("only", "against", "words"),
    [
        ((), ("torch",), "torch is not installed"),
        ((), ("transformers",), "transformers is not installed"),
        (("decode",), ("torch",), "compared in train only"),
        (("decode",), ("torch.compile",), "compared in train only"),
        ((), ("torch.compile",), "torch is not installed"),
        (("trian",), (), "did you mean `train`?"),
        ((), ("pytorch",), "did you mean `torch`?"),
    ],
)
def test_a_peer_that_is_missing_is_a_plain_error(
    only: Any, against: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BenchError, match=words.replace("?", r"\?")) as caught:
        run.bench(compiled(SMALL), only=only, against=against)
    if "installed" in words:
        assert "pip install 'llmspec[peers]'" in str(caught.value)


def test_the_quickstart_stands_in_where_no_spec_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from llmspec.cli.app import app

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["bench", "--phase", "chatt"])
    assert done.exit_code == 2 and "there is no phase `chatt`" in done.output and "`chat`" in done.output
    monkeypatch.setattr("llmspec.core.shipped.PACKAGE", tmp_path / "site-packages" / "llmspec")
    done = CliRunner().invoke(app, ["bench"])
    assert done.exit_code == 2 and "there is no file `quickstart`" in done.output


def test_a_phase_that_is_not_there() -> None:
    with pytest.raises(BenchError, match="no phase `pretrian`"):
        run.bench(compiled(SMALL), phase="pretrian")


def test_what_a_peer_does_not_have_is_refused_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(run, "asked", lambda task: pytest.fail("measured"))
    model = {
        **SMALL["model"],
        "position": {"kind": "learned"},
        "mlp": {"kind": "gelu", "bias": True},
        "norm": {"kind": "layernorm"},
        "residual": "post",
    }
    with pytest.raises(BenchError) as caught:
        run.bench(compiled({**SMALL, "model": model}), against=["transformers"])
    words = ("learned", "layernorm", "gelu", "biases", "model.residual `post`", "--against transformers", "rope")
    assert all(word in str(caught.value) for word in words)


def test_a_process_that_fails_is_a_plain_error(monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task(side="llmspec", work="train", plan=compiled(SMALL), phase="none")
    with pytest.raises(BenchError, match="ended with status 1: StopIteration"):
        run.asked(task)
    with pytest.raises(BenchError, match="no room for decoding"):
        run.asked(Task(side="llmspec", work="decode", plan=compiled(CRAMPED), phase="pretrain"))
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(BenchError, match="it printed nothing"):
        run.asked(task)


def test_the_machine_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "SQUARES": (32, 64),
        "SHAPES": ((4, 32, 8),),
        "VECTOR": (64, 128),
        "COPIED": 1 << 20,
        "EACH": 0.01,
    }.items():
        monkeypatch.setattr(machine_room, name, value)
    monkeypatch.setattr("llmspec.forecast.measurements.cache_dir", lambda: tmp_path)
    made = machine_room.measure("CPU")
    assert [(p.rows, p.inner, p.columns) for p in made.products] == [(32, 32, 32), (64, 64, 64), (4, 32, 8)]
    assert made.peak_flops == max(p.flops_per_second for p in made.products)
    assert machine_room.peak_flops("CPU") == made.peak_flops, "what was measured is kept"
    assert made.cores >= 1 and made.processor and min(made.copy_bytes, made.product_bytes) > 1e6


def test_the_peak_is_measured_once_and_only_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr("llmspec.forecast.measurements.cache_dir", lambda: tmp_path)
    monkeypatch.setattr(machine_room, "product_seconds", lambda *a, **k: calls.append(1) or 0.01)
    peak = machine_room.peak_flops("CPU")
    assert peak == 2 * 1024**3 / 0.01 and calls
    calls.clear()
    assert machine_room.peak_flops("CPU") == peak and not calls
    machine_room._remember("CPU", peak / 2)
    assert machine_room.peak_flops("CPU") == peak
    (tmp_path / "peaks.json").write_text("{broken")
    assert machine_room.peak_flops("CPU") == peak and calls


def test_the_verb_measures_and_prints_one_line(tmp_path: Path) -> None:
    spec = tiny.write(tmp_path)
    done = tiny.call("bench", spec, "--only", "prefill", "--rounds", "1", "--steps", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = BenchReport.model_validate_json(done.stdout)
    assert done.stdout.count("\n") == 1 and "prefill, llmspec" in done.stderr
    speed, seconds = report.row("prefill", "speed"), report.row("prefill", "prompt")
    assert speed.ours * seconds.ours == pytest.approx(16) and report.machine is None
    assert report.row("prefill", "peak memory").ours > 1e7


@pytest.mark.nightly
def test_a_model_is_measured_with_its_own_weights(tmp_path: Path) -> None:
    spec = tiny.write(tmp_path)
    run_folder = tmp_path / "run"
    assert tiny.call("run", spec, f"--out={run_folder}").returncode == 0
    works = ("--only", "prefill", "--only", "decode", "--only", "batch")
    done = tiny.call("bench", run_folder, *works, "--rounds", "1", "--steps", "2", "--prompt-tokens", "5", "--json")
    assert done.returncode == 0, done.stderr
    report = BenchReport.model_validate_json(done.stdout)
    assert [w.work for w in report.works] == ["prefill", "decode", "batch"]
    speed, seconds = report.row("prefill", "speed"), report.row("prefill", "prompt")
    assert speed.ours * seconds.ours == pytest.approx(5)
    speed, seconds = report.row("batch", "speed"), report.row("batch", "step")
    assert speed.ours * seconds.ours == pytest.approx(16)
    assert report.row("decode", "share of memory rate").ours > 0
    model = llmspec.open(run_folder)
    task = Task(side="llmspec", work="decode", plan=model.plan, phase="", model=str(run_folder), steps=1, prompt=5)
    checked = llmspec_side.run(task).check
    tokens = prompt(model.plan, tokens_of(task)[0] + 1)
    assert checked == pytest.approx(model.logits(tokens)[0, -1, :64], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("only", "against", "words"),
    [
        (("train",), (), "no training step"),
        ((), ("torch",), "torch is compared in what specs describe"),
        ((), ("llama.cpp",), "reads GGUF files"),
    ],
)
def test_what_a_model_is_not_measured_in(only: Any, against: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(BenchError, match=words):
        run.bench(compiled(SMALL), only=only, against=against, model="folder")
    with pytest.raises(BenchError, match="this is a spec"):
        run.bench(compiled(SMALL), against=("llama.cpp",))


SMALL: dict[str, Any] = {
    "name": "small",
    "device": "CPU",
    "model": {"context": 16, "d_model": 16, "layers": 1},
    "tokenizer": {"kind": "byte"},
    "data": {"sources": {"a": {"kind": "inline", "documents": ["x"]}}},
    "phases": {"pretrain": {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "4 steps"}},
}
CRAMPED = {**SMALL, "model": {"context": 3, "d_model": 16, "layers": 1}}


def test_each_peer_of_a_work_has_rows_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    train = REPORT.works[0]
    compiled_ = train.model_copy(
        update={"peer": "torch.compile 2.13.0", "rows": (row("train", "step", "s", (0.1, 0.1), (0.05, 0.05)),)}
    )
    report = REPORT.model_copy(update={"works": (train.model_copy(update={"peer": "torch 2.13.0"}), compiled_)})
    assert run.pairs(run.sides("train", ("torch", "torch.compile"))) == (
        ("llmspec", "torch"),
        ("llmspec", "torch.compile"),
    )
    assert run.pairs(run.sides("decode", ("torch",))) == (("llmspec",),)
    assert report.row("train", "step").peer == report.row("train", "step", "torch").peer == pytest.approx(0.21)
    assert report.row("train", "step", "torch.compile").peer == 0.05
    with pytest.raises(KeyError, match="step jax"):
        report.row("train", "step", "jax")
    show(report)
    said = capsys.readouterr().out
    assert "(torch)" in said and "(torch.compile)" in said and "train, step" in said
