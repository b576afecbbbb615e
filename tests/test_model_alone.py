"""A spec without data and phases describes a model: it is checked and explained, and `run` says what to add."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from llmspec import api
from llmspec.compiler import compile_spec, pending, plan_checks
from llmspec.compiler.memory import decoding_bytes
from llmspec.core.problems import SpecError
from llmspec.explain.part import explain_part, parts_of
from llmspec.render.reports import show
from llmspec.spec import load_spec
from llmspec.spec.dump import to_yaml

OF_OTHERS = {"adapt-smollm2", "align-smollm2", "sentiment-minilm"}
"""Those that read a file that comes with no llmspec: tests/test_adapter_spec.py and test_classify_more.py have them."""
SHIPPED = sorted(p.stem for p in (tiny.ROOT / "specs").glob("*.yaml") if p.stem not in OF_OTHERS)


def alone(name: str, folder: Path, **more: Any) -> Path:
    """A shipped spec without its data and phases, on the CPU."""
    found = load_spec(name).spec.dump()
    kept = {key: value for key, value in found.items() if key not in ("data", "phases")}
    path = folder / "alone.yaml"
    path.write_text(to_yaml({**kept, "device": "CPU", "precision": "float32", "beam": 0, **more}))
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_spec_is_explained_without_data_and_phases(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, path = (
        compile_spec(load_spec(name, ["device=CPU", "precision=float32", "beam=0"]).spec),
        alone(name, tmp_path),
    )
    known = api.known(path, None)
    plan = known.plan
    assert plan.model == whole.model and plan.tokenizer == whole.tokenizer and not plan.phases and not plan.sources
    assert all(check.holds for check in plan_checks(plan)) and not pending(plan)
    report = api.explained_spec(known)
    assert report.parameters == whole.model.parameters and report.flops is None
    assert report.flops_per_token == whole.model.flops_per_token
    (sampling,) = report.memory
    assert dict(sampling.items)["weights"] == 4 * whole.model.parameters
    assert dict(sampling.items)["keys and values"] == decoding_bytes(plan.model, 1)
    show(report)
    for part in parts_of(plan):
        show(explain_part(plan, part))
    show(api.explained_pair(path, path, None))
    printed = capsys.readouterr().out
    for absent in ("phases ─", "sources ─", "time estimate", "for all training", "None", "nan"):
        assert absent not in printed, absent
    for there in ("attention mask", "keys and values", "weights take", "per token read"):
        assert there in printed, there
    assert type(plan).parse(plan.model_dump_json(by_alias=True)) == plan
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(plan.settings()))
    assert compile_spec(load_spec(again).spec).model == plan.model


def test_run_and_bench_say_what_to_add(tmp_path: Path) -> None:
    path = alone("quickstart", tmp_path)
    done = tiny.call("run", str(path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2 and "this spec has no phases" in done.stderr
    assert "add `data:`" in done.stderr and "Traceback" not in done.stderr and not (tmp_path / "out").exists()
    benched = tiny.call("bench", str(path))
    assert benched.returncode != 0 and "this spec has no phases" in benched.stderr and "Traceback" not in benched.stderr


def test_check_reads_no_data_and_builds_the_graph(tmp_path: Path) -> None:
    path = alone("quickstart", tmp_path, model={"context": 16, "d_model": 16, "layers": 1, "attention": {"heads": 2}})
    done = tiny.call("check", str(path), "--data", "--graph", "--exact")
    assert done.returncode == 0, done.stderr
    assert "no phases" in done.stdout and "the data were not read" not in done.stdout
    assert "the built graph attends where the mask allows" in done.stdout


def test_phases_want_data_and_data_want_no_phases(tmp_path: Path) -> None:
    found = load_spec(tiny.write(tmp_path)).spec.dump()
    path = tmp_path / "some.yaml"
    path.write_text(to_yaml({key: value for key, value in found.items() if key != "data"}))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert [(p.message, p.path) for p in caught.value.problems] == [("`data` is missing", ("data",))]
    path.write_text(to_yaml({("dataset" if key == "data" else key): value for key, value in found.items()}))
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    assert [p.path for p in caught.value.problems] == [("dataset",)], "the misspelt key alone is told of"
    path.write_text(to_yaml({key: value for key, value in found.items() if key != "phases"}))
    plan = compile_spec(load_spec(path).spec)
    assert not plan.phases and [s.name for s in plan.sources] == ["docs", "facts"]
    show(api.explained_spec(api.known(path, None)))
