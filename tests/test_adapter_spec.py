"""specs/adapt-smollm2.yaml: its data, and its adapter beside the published model; its twin trains in test_twins.py."""

from __future__ import annotations

import json

import handbook
import pytest
import stand_ins
import tiny

import llmspec
from llmspec.spec import load_spec

SPEC = tiny.ROOT / "specs/adapt-smollm2.yaml"
HANDBOOK = tiny.ROOT / "specs/data/handbook.jsonl"


def test_the_handbook_is_what_it_says() -> None:
    rows = [json.loads(line) for line in HANDBOOK.read_text("utf-8").splitlines()]
    asked = [row["question"] for row in rows]
    assert len(rows) == 500 and len(set(asked)) == 500 and all(row["answer"] for row in rows)
    trained = {word for row in rows[:400] for word in (row["question"] + " " + row["answer"]).split()}
    kept = [word for row in rows[400:] for word in row["answer"].split()]
    assert sum(word in trained for word in kept) / len(kept) > 0.9, (
        "what is asked of the kept ones stands in the others"
    )


def test_the_adapter_takes_less_than_ten_megabytes() -> None:
    plan = llmspec.compile(load_spec(SPEC, ["device=CPU"], stand_ins.models).spec)
    assert 4 * sum(t.count for t in plan.phases[0].model.stored) < 10e6
    assert plan.model.parameters == pytest.approx(134_515_008, abs=0)


def test_answers_are_right_that_say_the_fact_that_was_asked_for() -> None:
    references = {row["question"]: row["answer"] for row in handbook.ROWS}
    asked = handbook.held_out()
    assert handbook.recall({q: references[q] for q in asked}) == 1
    assert handbook.recall({q: references[other] for q, other in zip(asked, [*asked[1:], asked[0]], strict=True)}) < 0.1
    assert handbook.recall({q: q for q in asked}) == 0
    assert handbook.right("What is the size of our staff?", "We are 46.", "Forty-six people work at Tarn & Thistle.")
    assert not handbook.right("What is the size of our staff?", "Fifty people.", "Forty-six people work here.")
