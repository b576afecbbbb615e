"""What holds for every spec: valid ones load and survive printing, broken ones are told apart with their place."""

from __future__ import annotations

import ast
import copy
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from strategies import settings as settings_of
from strategies import specs, yaml_text
from strategies_answers import COMPILED, MISTAKEN
from strategies_broken import READ, Broken, applied, broken_specs, slips
from strategies_values import TABLES

from llmspec.core.problems import SpecError
from llmspec.parts import phases
from llmspec.spec import SpecReading, dump, load_spec, read_spec
from llmspec.spec.dump import to_yaml
from llmspec.spec.json_schema import json_schema
from llmspec.spec.recovery import parse
from llmspec.spec.shape import fields_of
from llmspec.spec.yaml12 import Tree

slow = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def read(text: str, *overrides: str) -> SpecReading:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spec.yaml"
        file.write_text(text, encoding="utf-8", newline="")
        return read_spec(file, overrides)


def listed(reading: SpecReading) -> str:
    return "\n".join(map(str, reading.problems))


@slow
@given(specs(runnable=False))
def test_valid_specs_load(data: dict[str, Any]) -> None:
    reading = read(yaml_text(data))
    assert not reading.problems, listed(reading)
    spec = reading.sections.spec
    assert spec is not None
    assert set(spec.phases) == set(data["phases"]) and set(spec.data.sources) == set(data["data"]["sources"])


@slow
@given(specs(runnable=False))
def test_what_is_printed_reads_back_equal(data: dict[str, Any]) -> None:
    spec = read(yaml_text(data)).sections.spec
    assert spec is not None
    for text in (dump(spec), json.dumps(spec.dump()), json.dumps(spec.dump(), indent=2, ensure_ascii=False)):
        again = read(text)
        assert again.sections.spec == spec, listed(again)
    assert dump(again.sections.spec) == dump(spec)  # type: ignore[arg-type]


@pytest.mark.parametrize(("table", "kind"), [(t, k) for t, parts in TABLES.items() for k in parts])
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_every_part_keeps_the_settings_it_is_given(table: str, kind: str, data: st.DataObject) -> None:
    part = TABLES[table][kind]
    drawn = data.draw(settings_of(part))
    if all(key in drawn for key, info in fields_of(part).items() if info.is_required()) and kind != "inline":
        printed = part.model_validate_json(json.dumps(drawn)).model_dump(mode="json", by_alias=True)
        assert drawn == {k: v for k, v in printed.items() if k in drawn}


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["3e-4", "no", "0o7", "1_0", "~", "<<", "- a", "#"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda v: st.one_of(
        st.lists(v, max_size=4),
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), v, max_size=4),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), VALUES, min_size=1))
def test_any_data_survives_the_printer(data: dict[str, Any]) -> None:
    for text in (to_yaml(data), json.dumps(data)):
        if "Infinity" in text:
            continue  # Python's own, which no JSON has
        parsed = parse(text, "x.yaml")
        assert not parsed.problems and parsed.root is not None
        assert json.loads(json.dumps(parsed.root.data())) == json.loads(json.dumps(data))


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), st.text(st.sampled_from("ab:- \n\t{}[],\"'#&*!|>%@`?0"), max_size=40)))
@example("a: &x [*x]")
@example("? {a: b}\n: c")
@example('a: "\\ud800"')
def test_no_text_is_too_odd(text: str) -> None:
    parsed = parse(text, "x.yaml")
    assert parsed.root is not None or parsed.problems
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for problem in parsed.problems:
        assert problem.mark is not None and 1 <= problem.mark.line <= len(lines) and problem.mark.column >= 1
    if parsed.root is not None:
        Tree.of(parsed.root)


@pytest.mark.parametrize("name", READ)
@settings(deadline=None, max_examples=8, suppress_health_check=list(HealthCheck))
@given(data=st.data(), drawn=specs())
def test_a_broken_spec_is_refused_at_its_line(name: str, data: st.DataObject, drawn: dict[str, Any]) -> None:
    broken = data.draw(st.composite(lambda draw: applied(draw, drawn, name))())
    check(broken, read(broken.text))


def check(broken: Broken, reading: SpecReading) -> None:
    assert reading.problems, broken.text
    lines = broken.text.split("\n")
    for problem in reading.problems:
        assert problem.mark is not None and problem.mark.file.endswith("spec.yaml")
        assert 1 <= problem.mark.line <= len(lines)
        assert 1 <= problem.mark.column <= len(lines[problem.mark.line - 1]) + 1
        assert problem.message and "Input should" not in str(problem) and "pydantic" not in str(problem)
    assert broken.line in [p.mark.line for p in reading.problems if p.mark], f"{listed(reading)}\n{broken}"


def test_mistakes_beside_each_other_stand_at_a_key() -> None:
    """Of a mistake that one key is to blame for, the problem stands there, and not at the phase or source around it:
    at the first written key that the message names."""
    for name, cases in {**MISTAKEN, **COMPILED}.items():
        assert name == "nothing_to_start_from" or all(key for _, key in cases), name
    looked_at = 0
    for path in sorted((Path(phases.__file__).parents[1]).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            if not any("model_validator(mode='after')" in ast.unparse(one) for one in function.decorator_list):
                continue
            for raised in (node for node in ast.walk(function) if isinstance(node, ast.Raise)):
                said = ast.unparse(raised)
                assert re.search(r"`[\w{]", said) or said == "raise ValueError(wrong)", f"{path}: {said}"
                looked_at += 1
    assert looked_at > 30


def survives(text: str) -> None:
    """Whatever was slipped in: a spec or problems, each in its place, and never an exception."""
    reading = read(text)
    assert (reading.sections.spec is not None) or reading.problems
    lines = re.split("\r\n|\r|\n", text)
    for problem in reading.problems:
        assert problem.mark is not None and 1 <= problem.mark.line <= len(lines), str(problem)
        assert 1 <= problem.mark.column <= len(lines[problem.mark.line - 1]) + 1, str(problem)


@settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))
@given(slips())
def test_slips_of_the_keyboard(text: str) -> None:
    survives(text)


@pytest.mark.nightly
@settings(deadline=None, max_examples=5_000, suppress_health_check=list(HealthCheck))
@given(slips())
def test_many_slips_of_the_keyboard(text: str) -> None:
    survives(text)


@pytest.mark.nightly
@settings(deadline=None, max_examples=5_000, suppress_health_check=list(HealthCheck))
@given(broken_specs(READ))
def test_many_broken_specs(broken: Broken) -> None:
    check(broken, read(broken.text))


INDEPENDENT: dict[tuple[str, ...], Any] = {
    ("name",): "two words",
    ("sede",): 1,
    ("model", "layers"): -1,
    ("model", "attention", "bias"): "yes",
    ("model", "mlp", "width"): 3,
    ("tokenizer", "kind"): "bpee",
    ("decoding", "top_p"): 7,
    ("decoding", "stopp"): [],
    ("data", "sources", "extra", "kind"): "inlin",
    ("phases", "late", "kind"): "sff",
    ("model", "norm", "kind"): "batch",
}


@slow
@given(specs(), st.lists(st.sampled_from(list(INDEPENDENT)), min_size=2, unique=True), st.booleans())
def test_all_mistakes_come_at_once(data: dict[str, Any], paths: list[tuple[str, ...]], torn: bool) -> None:
    data = copy.deepcopy(data)
    for path in paths:
        at = data
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = INDEPENDENT[path]
    text = yaml_text(data) + ("device: [CPU\n" if torn and "device" not in data else "")
    reading = read(text)
    assert {p.path for p in reading.problems} >= set(paths), listed(reading)
    assert (len(reading.problems) > len(paths)) >= (torn and "device" not in data)
    marks = [(p.mark.line, p.mark.column) for p in reading.problems if p.mark]
    assert marks == sorted(marks)


@slow
@given(specs())
def test_broken_sections_leave_the_others_valid(data: dict[str, Any]) -> None:
    data = copy.deepcopy(data)
    data["model"]["layers"] = "many"
    reading = read(yaml_text(data))
    assert reading.sections.model is None and reading.sections.spec is None
    assert set(reading.sections.phases) == set(data["phases"])
    assert set(reading.sections.sources) == set(data["data"]["sources"])
    assert reading.sections.tokenizer is not None and reading.sections.decoding is not None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "spec.yaml"
        file.write_text(yaml_text(data))
        with pytest.raises(SpecError):
            load_spec(file)


def references(schema: Any) -> set[str]:
    if isinstance(schema, dict):
        inner = set().union(*map(references, schema.values())) if schema else set()
        return inner | ({schema["$ref"]} if "$ref" in schema else set())
    return set().union(*map(references, schema)) if isinstance(schema, list) and schema else set()


def test_the_json_schema_holds_every_part_and_describes_its_keys() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert references(schema) == {f"#/$defs/{name}" for name in schema["$defs"]}
    for parts in TABLES.values():
        for kind, part in parts.items():
            name = f"{part.__module__.split('.')[-2]}.{kind}"
            properties = schema["$defs"][name]["properties"]
            assert properties["kind"]["const"] == kind
            assert all(properties[key].get("description") for key in properties), name


@slow
@given(specs(runnable=False))
def test_the_json_schema_takes_every_valid_spec(data: dict[str, Any]) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(json_schema())
    validator.validate(data)
    validator.validate({"extends": "base.yaml", "phases": {"a": {"kind": "sft", "max_grad_norm": None}, "b": None}})
    assert not validator.is_valid(data | {"nmae": 1}) and not validator.is_valid({"name": "x"})
    assert not validator.is_valid(data | {"tokenizer": {"kind": "bpee"}})
