"""The compiler: check accepts exactly what builds, the plan is data, and its table is the built model's state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import tiny
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from strategies import specs, yaml_text
from strategies_answers import COMPILED
from strategies_broken import broken_specs, slips

from llmspec.api import compiled
from llmspec.compiler import Plan, check_sections, compile_spec, complete
from llmspec.core.problems import DataError, SpecError
from llmspec.model.device import open_device
from llmspec.spec import load_spec, read_spec
from llmspec.spec.schema import Spec

open_device("CPU")
from llmspec.model.completeness import assert_complete  # noqa: E402
from llmspec.model.transformer import Transformer  # noqa: E402
from llmspec.parts.phases.rollouts import RolloutPhase  # noqa: E402

SHIPPED = sorted((tiny.ROOT / "specs").glob("*.yaml"))
GOLDEN = [tiny.ROOT / "specs/quickstart.yaml", *sorted((tiny.ROOT / "tests/golden").glob("*.yaml"))]
"""Specs whose plans are kept: equal layers, layers that differ, norms after sums, an untied head, two heads."""


def problems(path: Path, *overrides: str) -> tuple[Any, ...]:
    reading = read_spec(path, overrides, stand_ins.models)
    return reading.sorted((*reading.problems, *check_sections(reading.sections)))


@settings(max_examples=60)
@given(data=specs())
def test_what_check_accepts_builds(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tiny.write(tmp_path_factory.mktemp("spec"), yaml_text(data))
    assert not problems(path)
    plan = compile_spec(load_spec(path).spec, base=str(path.parent))
    assert_complete(Transformer(plan.model))
    assert Plan.parse(json.dumps(plan.dump())) == plan


@pytest.mark.nightly
@settings(max_examples=500)
@given(data=specs())
def test_five_hundred_tensor_tables_are_the_built_models(data: dict[str, Any]) -> None:
    assert_complete(Transformer(compile_spec(Spec.model_validate_json(json.dumps(data))).model))


@settings(max_examples=60)
@given(broken=broken_specs())
def test_what_check_refuses_never_gets_further(broken: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(broken.text, encoding="utf-8")
    found = problems(path)
    assert found and all(p.mark is not None for p in found), broken
    with pytest.raises(SpecError):
        compile_spec(load_spec(path).spec)


@pytest.mark.parametrize("name", list(COMPILED))
@settings(max_examples=5)
@given(data=st.data())
def test_what_the_compiler_refuses_is_refused_at_its_line(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = data.draw(broken_specs((name,)))
    path = tmp_path_factory.mktemp("spec") / "spec.yaml"
    path.write_text(broken.text, encoding="utf-8")
    found = problems(path)
    assert broken.line in [p.mark.line for p in found if p.mark], (found, broken)
    assert all(p.hint and p.message for p in found)


def what_is_accepted_builds(text: str, folder: Path) -> bool:
    """A text that somebody slipped in: problems, each with its line, or a plan whose model can be put together."""
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        _, plan = compiled(path, [])
    except SpecError as error:
        assert error.problems and all(p.mark is not None for p in error.problems), error
        return False
    if plan.model.layers <= 100:  # as a graph, a million layers are only slow
        assert_complete(Transformer(plan.model))
    return True


@settings(max_examples=60)
@given(text=slips())
def test_what_is_accepted_after_slips_builds(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    what_is_accepted_builds(text, tmp_path_factory.mktemp("spec"))


@pytest.mark.nightly
def test_ten_thousand_mutated_specs(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, accepted = tmp_path_factory.mktemp("spec"), []

    calm = settings(max_examples=5_000, suppress_health_check=list(HealthCheck), phases=[Phase.generate])

    @calm
    @given(text=slips())
    def slipped(text: str) -> None:
        accepted.append(what_is_accepted_builds(text, folder))

    @calm
    @given(broken=broken_specs())
    def broken_on_purpose(broken: Any) -> None:
        assert not what_is_accepted_builds(broken.text, folder), broken

    slipped()
    broken_on_purpose()
    assert len(accepted) >= 5_000 and 0.02 < sum(accepted) / len(accepted) < 0.98


@settings(max_examples=40)
@given(data=specs(runnable=False), draw=st.data())
def test_a_part_that_cannot_be_read_is_one_mistake(
    data: dict[str, Any], draw: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What other sections say of it is not judged: whatever was said would be about a part that nobody wrote."""
    names = [("data", "sources", name) for name in data["data"]["sources"]] + [("phases", p) for p in data["phases"]]
    path = draw.draw(st.sampled_from([("model",), ("tokenizer",), *names]))
    key = {"model": "d_model", "phases": "micro_batch_size"}.get(path[0], "kind")
    data = json.loads(json.dumps(data))
    for source in data["data"]["sources"].values():
        source.setdefault("validation", "hash 10%")
    for phase in data["phases"].values():
        phase |= {"early_stopping": {}, "evaluate_every": "20%"}
    part = data
    for step in path:
        part = part.setdefault(step, {})
    part[key] = "no such thing"
    found = problems(tiny.write(tmp_path_factory.mktemp("unread"), yaml_text(data)))
    assert {tuple(problem.path) for problem in found} == {(*path, key)}, found


@settings(max_examples=30)
@given(data=specs(), heads=st.sampled_from([3, 5, 7, 9]))
def test_heads_that_do_not_divide(data: dict[str, Any], heads: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    data["model"]["attention"] = {"kind": "multi_head", "heads": heads}
    path = tiny.write(tmp_path_factory.mktemp("spec"), yaml_text(data))
    found = [p for p in problems(path) if p.path == ("model", "attention", "heads")]
    assert found and "do not divide" in found[0].message and found[0].hint and found[0].mark is not None


@settings(max_examples=15)
@given(data=specs())
def test_plans_are_completed_by_their_data(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    from llmspec.data.prepare import prepare

    path = tiny.write(tmp_path_factory.mktemp("spec"), yaml_text(data))
    plan = compile_spec(load_spec(path).spec, base=str(path.parent))
    try:
        prepared = prepare(plan, offline=True)
    except DataError as refused:  # text that does not fit its context: said in words, with a way out
        event("refused")
        assert all(p.hint for p in refused.problems)
        return
    event("completed")
    whole = complete(plan, prepared.measured)
    assert whole.model == plan.model and Plan.parse(json.dumps(whole.dump())) == whole
    for planned in whole.phases:
        each = planned.phase.steps_per_rollout if isinstance(planned.phase, RolloutPhase) else 1
        assert planned.exact and -(-planned.steps // each) == prepared.stream(planned.name).steps, planned.name
    assert prepared.codec.vocab == plan.model.vocab


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_specs(path: Path) -> None:
    text = path.read_text("utf-8")
    roomy = [] if "memory_limit" in text else ["memory_limit=64 GiB"]
    assert not problems(path, *roomy)
    plan = compile_spec(load_spec(path, roomy, stand_ins.models).spec)
    assert_complete(Transformer(plan.model))
    assert plan.model.parameters == sum(t.count for t in plan.model.tensors)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden_plans(path: Path) -> None:
    """A plan changes only on purpose: delete the file to write it anew."""
    golden = Path(__file__).parents[1] / "golden" / f"{path.stem}.plan.json"
    found = compile_spec(load_spec(path, ["device=CPU"]).spec, base=".").dump()
    if not golden.exists():
        golden.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        pytest.fail(f"{golden.name} was missing and has been written: look at it and commit it")
    assert found == json.loads(golden.read_text("utf-8"))


def test_keys_of_phases_follow_what_shapes_them() -> None:
    def keys(*overrides: str) -> dict[str, str]:
        plan = compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", overrides).spec)
        return {p.name: p.key for p in plan.phases}

    base = keys()
    assert keys("decoding.temperature=0.1") == base
    assert keys("phases.pretrain.sample_every=50%", "phases.chat.prompts=[hello]") == base
    chat = keys("phases.chat.optimizer.lr=1e-5")
    assert chat["pretrain"] == base["pretrain"] and chat["chat"] != base["chat"]
    for change in ("seed=2", "model.d_model=96", "phases.pretrain.budget=2M tokens", "tokenizer.vocab=1024"):
        assert not set(keys(change).values()) & set(base.values()), change
