"""Labels of records, and what is wrong with them: refused, or said, before step 0."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError, SpecError
from llmspec.data.labels import labels_of
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.data.shaping import Dropped
from llmspec.parts.sources import Document
from llmspec.parts.sources.inline import Inline
from llmspec.spec import load_spec


@pytest.mark.parametrize(
    ("label", "record", "expected"),
    [
        ("{a}", {"a": " x "}, ("x",)),
        ("{a}", {"a": 3}, ("3",)),
        ("{a}/{b}", {"a": "x", "b": True}, ("x/true",)),
        ("{a}", {"a": ["y", "x", "x"]}, ("x", "y")),
        ("{a}", {"a": []}, ()),
        ("{a}", {"a": [1, "x"]}, ("1", "x")),
        ("{a}", {"a": [{}]}, None),
        ("{a}", {"a": ""}, None),
        ("{a}", {"a": None}, None),
        ("{a}", {}, None),
        ("{a}", None, None),
        ("{a}", {"a": {"x": 1}}, None),
    ],
)
def test_the_labels_of_a_record(label: str, record: dict[str, Any] | None, expected: tuple[str, ...] | None) -> None:
    source = Inline(documents=("x",), text="{t}", label=label)
    found = labels_of(source, Document("a", record=record))
    assert isinstance(found, Dropped) if expected is None else found == expected


SPEC = """\
name: told
device: CPU
model: {context: 32, d_model: 8, layers: 1, attention: {heads: 2}, mask: {kind: bidirectional}}
tokenizer: {kind: byte}
data:
  sources:
    facts:
      kind: files
      path: facts.jsonl
      validation: hash 20%
      max_epochs: 9
      text: "{q}"
      label: "{a}"
phases:
  told:
    kind: classify
    mixture: {facts: 100%}
    budget: 2 epochs of facts
    micro_batch_size: 2
    labels: [fresh, rotten]
"""


def records(folder: Any, *more: dict[str, Any]) -> None:
    lines = [{"q": f"number {i}", "a": "fresh" if i % 3 else "rotten"} for i in range(60)]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, [*lines, *more])))


@pytest.mark.parametrize(
    ("change", "path", "said", "hint"),
    [
        ("model.mask={kind: prefix}", ("phases", "told", "kind"), "has a prefix", "causal or bidirectional"),
        ("data.sources.facts.label=null", ("data", "sources", "facts"), "no `label:`", "in braces"),
        ("data.sources.facts.text=null", ("data", "sources", "facts"), "which of its fields are the text", "text:"),
        ("phases.told.labels=[a, a]", ("phases", "told"), "stands twice", ""),
        ("phases.told.class_weights={fresch: 2}", ("phases", "told"), "`labels:` has not", ""),
        ("phases.told.class_weights={fresh: 0}", ("phases", "told", "class_weights", "fresh"), "", ""),
        ("phases.told.document_mask=false", ("phases", "told", "document_mask"), "", ""),
        ("phases.told.objective={head: lm}", ("phases", "told", "objective", "head"), "every token", "leave `head:`"),
        ("phases.told.objective={kind: cross_entropy}", ("phases", "told", "objective"), "predicts the next", ""),
        ("phases.told.heads={classes: {kind: embedding}}", ("phases", "told", "objective"), "no logits of classes", ""),
        ("phases.told.multi_lable=true", ("phases", "told", "multi_lable"), "", "multi_label"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_so_is_refused(
    change: str, path: tuple[Any, ...], said: str, hint: str, tmp_path: Any
) -> None:
    with pytest.raises(SpecError) as refused:
        compile_spec(load_spec(tiny.write(tmp_path, SPEC), [change]).spec)
    found = [p for p in refused.value.problems if p.path[: len(path)] == path]
    assert any(said in p.message and hint in p.hint for p in found), refused.value.problems


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ("phases.told.labels=[fresh, roten]", [], "has the label `roten`.*did you mean `rotten`"),
        ("phases.told.labels=[fresh]", [], "of a label that is not listed"),
        ("phases.told.heads={classes: {kind: classes, labels: [fresh, rotten, x]}}", [], "2 labels .* 3 classes"),
        ("phases.told.class_weights={other: 2}", [], "`other` has a weight"),
        ("phases.told.max_tokens=5", [], "too long"),
        ("data.sources.facts.label='{aa}'", [], "no record has a field `aa`"),
        ("phases.told.labels=[fresh, rotten]", [{"q": f"x {i}"} for i in range(9)], "without a label.*facts.jsonl:61"),
    ],
)
def test_what_the_data_do_not_have_is_named_before_step_0(
    change: str, more: list[dict[str, Any]], said: str, tmp_path: Any
) -> None:
    records(tmp_path, *more)
    changes = [change, "phases.told.labels=[]"] if "class_weights" in change else [change]
    with pytest.raises(DataError, match=f"(?s){said}"):
        prepare(compile_spec(load_spec(tiny.write(tmp_path, SPEC), changes).spec))


def test_labels_that_are_found_and_rare_ones_are_said(tmp_path: Any) -> None:
    records(tmp_path, {"q": "it is alone", "a": "odd"}, {"q": "nothing"})
    plan = compile_spec(load_spec(tiny.write(tmp_path, SPEC), ["phases.told.labels=[]"]).spec)
    prepared = prepare(plan)
    told = " ".join(notices(prepared))
    assert "no `labels:`; found in its training documents: `fresh`, `odd`, `rotten`" in told
    assert "one training document alone of `odd`" in told and "validated with no document of `odd`" in told
    assert "1 without a label (facts.jsonl:62: it has no `a`)" in told
    assert prepared.measured.labels == {"told": ("fresh", "odd", "rotten")}
