"""Records with one answer each that follow one another are what one record with all their answers is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError
from llmspec.data.grouping import grouped
from llmspec.data.notices import notices
from llmspec.data.preferences import comparison_of
from llmspec.data.prepare import prepare
from llmspec.parts import sources
from llmspec.parts.sources import Document, Source
from llmspec.parts.sources.notes import Notes
from llmspec.parts.sources.preferences import COMPARED
from llmspec.spec import load_spec

HELPFUL = {"prompt": "{prompt}", "answers": "response", "scores": {"helpfulness": 2, "correctness": 1}}
"""What a source says of sets such as HelpSteer2: an answer a record, with a number for each criterion."""


def source(**keys: Any) -> Source:
    return sources.TABLE["inline"].model_validate({"kind": "inline", "records": ({"a": 1},), **HELPFUL, **keys})


answers = st.lists(st.tuples(st.text("abc"), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=4)
prompts = st.lists(st.tuples(st.sampled_from(["p", "q", "r"]), answers), max_size=6)


@given(prompts)
@settings(deadline=None)
def test_records_in_a_row_are_one_with_all_their_answers(asked: list[tuple[str, Any]]) -> None:
    joined = list[tuple[str, Any]]()
    for prompt, said in asked:
        if joined and joined[-1][0] == prompt:
            joined[-1] = (prompt, joined[-1][1] + said)
        else:
            joined.append((prompt, said))
    columns = ("response", "helpfulness", "correctness")
    rows = [{"prompt": p, **dict(zip(columns, one, strict=True))} for p, said in asked for one in said]
    whole = [{"prompt": p, **{c: [one[i] for one in said] for i, c in enumerate(columns)}} for p, said in joined]
    notes = Notes()
    alone = source(group_by="prompt")
    found = [*grouped(alone, [Document("f", record=row, item=str(i)) for i, row in enumerate(rows)], notes)]
    assert [document.record for document in found] == whole
    assert [comparison_of(alone, document) for document in found] == [
        comparison_of(source(), Document("f", record=record)) for record in whole
    ]
    again = len(joined) - len({prompt for prompt, _ in joined})
    assert sum(notes.counts.values()) == again and all("sort the files" in said for said in notes.said())


def test_what_has_no_such_field_stands_by_itself() -> None:
    records = [None, {"response": "a", "helpfulness": 1}, {"response": "b", "helpfulness": 2}, None]
    notes = Notes()
    documents = [Document("f", text="t", record=record) for record in records]
    found = [document.record for document in grouped(source(group_by="prompt"), documents, notes)]
    assert found[0] is None and found[3] is None and not notes.counts
    assert [record and record["response"] for record in found[1:3]] == [["a"], ["b"]]


def read(folder: Path, records: list[dict[str, Any]], **keys: Any) -> Any:
    text, own = phase_kinds.spec_of("reward")
    given = dict.fromkeys(("text", "dialogue", *COMPARED)) | {"records": records} | keys
    sets = [*own, *(f"data.sources.facts.{key}={json.dumps(value)}" for key, value in given.items())]
    return prepare(compile_spec(load_spec(tiny.write(folder, text), [*sets, "model.context=48"]).spec))


def rows_of(n: int) -> list[dict[str, Any]]:
    said = [("yes", 4, 3), ("no", 1, 1)]
    return [
        {"prompt": f"q{i}", "response": text, "helpfulness": h, "correctness": c}
        for i in range(n)
        for text, h, c in said
    ]


def test_a_reward_model_learns_from_one_answer_a_record(tmp_path: Path) -> None:
    whole = read(tmp_path, rows_of(20), **HELPFUL, group_by="prompt")
    texts = whole.opened("phase", "facts").texts
    assert texts is not None and len(texts) > 10 and set(texts.tolist()) == {2}
    assert not [said for said in notices(whole) if "left out" in said]
    mixed = rows_of(20)[::2] + rows_of(20)[1::2]
    with pytest.raises(DataError) as refused:
        read(tmp_path, mixed, **HELPFUL, group_by="prompt")
    assert "with one answer alone" in refused.value.problems[0].message


def test_the_hint_for_such_records_can_be_written_down_as_it_stands(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, rows_of(20))
    (hint,) = {problem.hint for problem in refused.value.problems}
    for said in ('`prompt: "{prompt}"`', "`answers: response`", "`group_by: prompt`"):
        assert hint is not None and said in hint
    assert hint is not None and "`scores: {helpfulness: 1, correctness: 1}`" in hint
