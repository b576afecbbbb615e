"""The JSON Schema that ships for editors: up to date, named by the quickstart, valid for every shipped spec."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_ins
import tiny

from llmspec.core.units import Budget, Share
from llmspec.parts.schedules.base import Span
from llmspec.parts.sources import Validation
from llmspec.spec import load_spec, read_spec
from llmspec.spec.json_schema import as_text, json_schema

SPECS = tiny.ROOT / "specs"
SHIPPED = sorted(SPECS.glob("*.yaml"))


def plain(data: Any) -> Any:
    """Data as an editor sees them: lists, not tuples."""
    return json.loads(json.dumps(data))


def validator(schema: dict[str, Any]) -> Any:
    return pytest.importorskip("jsonschema").Draft202012Validator(schema)


def keys(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, schema) of every key."""
    if isinstance(schema, list):
        for entry in schema:
            yield from keys(entry, path)
    elif isinstance(schema, dict):
        for word, below in schema.items():
            if word == "properties":
                yield from ((f"{path}.{key}", found) for key, found in below.items())
            yield from keys(below, f"{path}.{word}")


def test_the_shipped_schema_is_up_to_date() -> None:
    """`llmspec schema -o specs/schema.json` makes it anew."""
    assert (SPECS / "schema.json").read_text("utf-8") == as_text()


def test_the_quickstart_names_the_schema() -> None:
    first = (SPECS / "quickstart.yaml").read_text("utf-8").splitlines()[0]
    named = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert named and (SPECS / named[1]).is_file()


def test_the_command_prints_it_or_writes_it(tmp_path: Path) -> None:
    assert tiny.call("schema").stdout == as_text()
    done = tiny.call("schema", "-o", tmp_path / "deep" / "s.json")
    assert done.returncode == 0 and not done.stdout and (tmp_path / "deep" / "s.json").read_text("utf-8") == as_text()
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "file" / "s.json"):
        wrong = tiny.call("schema", "-o", place)
        assert wrong.returncode == 2 and "cannot be written" in wrong.stderr and "Traceback" not in wrong.stderr


def test_every_key_is_described() -> None:
    found = dict(keys(json_schema()))
    assert len(found) > 100
    assert [where for where, schema in found.items() if not schema.get("description")] == []


def test_the_schema_is_one_and_its_defaults_are_valid() -> None:
    schema = json_schema()
    validator(schema).check_schema(schema)
    for where, key in keys(schema):
        if "default" in key:
            assert validator({**key, "$defs": schema["$defs"]}).is_valid(key["default"]), where


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_specs_are_valid_as_written_and_as_printed(path: Path) -> None:
    check = validator(json_schema())
    check.validate(plain(read_spec(path).tree.data))
    check.validate(plain(load_spec(path, models=stand_ins.models).spec.dump()))


def test_quantities_and_layers_in_every_form() -> None:
    check = validator(json_schema())
    base = plain(read_spec(SPECS / "quickstart.yaml").tree.data)

    def takes(**phase: Any) -> bool:
        return check.is_valid({"extends": ["a.yaml"], "phases": {"p": {"kind": "pretrain", **phase}}})

    assert check.is_valid(base | {"extends": "a.yaml"}) and check.is_valid({"extends": "a.yaml", "name": "b"})
    assert takes(budget="2M tokens") and takes(evaluate_every=0) and takes(schedule={"warmup": "100 steps"})
    assert takes(optimizer={"kind": "adamw", "lr": 3e-4}) and takes(optimizer={"lr": 1}) and takes(max_grad_norm=None)
    assert not takes(budget=400) and not takes(evaluate_every=3) and not takes(optimizer={"lr": "high"})
    assert not takes(bugdet="2M tokens") and not takes(optimizer={"kind": "adamww"})


@pytest.mark.parametrize("quantity", [Budget, Share, Span, Validation])
def test_examples_of_quantities_are_quantities(quantity: Any) -> None:
    assert quantity.examples and all(str(quantity.parse(text)) == text for text in quantity.examples)
