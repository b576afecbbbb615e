"""Tables of parts: a kind's file is read when somebody asks for the kind, and the tables that are shipped as YAML say
the same to every parser."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from llmspec.core.table import Table
from llmspec.formats.hf.family import read_table
from llmspec.parts.base import Part
from llmspec.parts.norms import Norm
from llmspec.parts.norms.layernorm import LayerNorm
from llmspec.spec.recovery import parse

FOLDERS = sorted(p.parent.name for p in (tiny.ROOT / "llmspec" / "parts").glob("*/__init__.py"))
SHIPPED = sorted((tiny.ROOT / "llmspec").rglob("*.yaml"))
ASKED = {"filters": {"penalties", "temperature", "top_k", "top_p", "min_p"}, "mlps": {"gelu"}}
"""Kinds that are read although a spec does not name them: filters, whose keys stand side by side, and GELU, whose forms
a head may have."""
READ = """
import importlib, json, sys
import llmspec
from llmspec.spec.schema import Spec
plan = llmspec.compile(Spec.model_validate({"name": "a", "model": {"context": 8, "d_model": 8, "layers": 1}}))
named = {}
for folder in sys.argv[1:]:
    name = f"llmspec.parts.{folder}"
    named[folder] = [kind for kind in importlib.import_module(name).TABLE if f"{name}.{kind}" in sys.modules]
print(json.dumps(named))
"""
DEFAULTS = {
    "attentions": {"grouped_query"},
    "embeddings": {"tokens"},
    "heads": {"lm"},
    "inits": {"normal"},
    "masks": {"causal"},
    "mlps": {"swiglu"},
    "norms": {"rmsnorm"},
    "positions": {"rope"},
    "templates": {"role_tokens"},
    "tokenizers": {"byte"},
}


def test_a_kind_that_nothing_names_is_not_read() -> None:
    found = subprocess.run(
        [sys.executable, "-c", READ, *FOLDERS], capture_output=True, text=True, cwd=tiny.ROOT, check=True
    )
    for folder, kinds in json.loads(found.stdout).items():
        assert {*kinds} <= ASKED.get(folder, set()) | DEFAULTS.get(folder, set()), folder
        assert {*kinds} >= DEFAULTS.get(folder, set()), folder


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_line_leads_to_a_part_of_its_name(folder: str) -> None:
    table = importlib.import_module(f"llmspec.parts.{folder}").TABLE
    assert isinstance(table, Table) and len(table) == len([*table]) > 0
    for kind in table:
        assert kind in table and issubclass(table[kind], Part)
        assert table[kind] is table[kind]
    files = {p.stem for p in (tiny.ROOT / "llmspec" / "parts" / folder).glob("*.py")}
    assert {*table} <= files


def test_a_table_is_a_map() -> None:
    table = Table[Norm]("llmspec.parts.norms", {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm", "lost": "Lost"})
    assert [*table] == ["layernorm", "rmsnorm", "lost"] and "other" not in table and table.get("other") is None
    assert table["layernorm"] is LayerNorm and isinstance(table.default("layernorm")(), LayerNorm)
    with pytest.raises(KeyError, match="other"):
        table["other"]
    with pytest.raises(ModuleNotFoundError, match="lost"):  # a line that leads nowhere: the law above finds it
        table["lost"]
    del table["lost"]
    table["own"] = LayerNorm
    assert [*table.items()][-1] == ("own", LayerNorm) and len(table) == 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_both_parsers_say_the_same_of_what_is_shipped(path: Path) -> None:
    exact = parse(path.read_text("utf-8"), str(path))
    assert exact.root is not None and not exact.problems
    assert repr(read_table(path)) == repr(exact.root.data())
