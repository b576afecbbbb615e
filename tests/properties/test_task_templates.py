"""Tasks' templates, and examples before a dialogue: filled with what, drawn from where, and never the record itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from test_data import quick
from test_sources import plan_of, source

from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError, SpecError
from llmspec.data.prepare import PreparedData, prepare
from llmspec.data.shots import Shot, Shots, with_shots
from llmspec.explain.spec import explain_plan
from llmspec.parts.task_templates import BUILT_IN, fields_of_template, with_fields
from llmspec.parts.templates.base import Turn
from llmspec.render.reports import show
from llmspec.spec import load_spec

OWN = '      dialogue: {user: "{q}", assistant: "{a}"}\n'


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path_factory.mktemp("cache")))


# -- templates -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(BUILT_IN))
def test_what_is_there_asks_and_answers(name: str) -> None:
    template = BUILT_IN[name]
    assert list(template) == ["user", "assistant"]
    answer = fields_of_template({"assistant": template["assistant"]})
    assert len(answer) == 1 and answer[0] not in fields_of_template({"user": template["user"]})
    filled = with_fields(template, {"text": "{a} {{b}}"})
    assert "{a} {{b}}" in filled["user"] and fields_of_template(filled)[-1] == answer[0]


def test_places_are_filled_and_braces_stay() -> None:
    found = with_fields({"user": "{{{x}}} {y}", "assistant": "{z}"}, {"x": "{p}: {q}", "z": "so"})
    assert found == {"user": "{{{p}: {q}}} {y}", "assistant": "so"}


def spec(folder: Path, how: str, top: str = "") -> Any:
    return load_spec(tiny.write(folder, top + tiny.TINY.replace(OWN, how))).spec


def test_a_source_reads_as_with_the_dialogue_itself(tmp_path: Path) -> None:
    how = '      template: continue\n      template_fields: {text: "{q}", continuation: "{a}"}\n'
    named, mine = spec(tmp_path, how), "      template: say\n"
    turns = {"user": "Continue this text.\n\n{q}", "assistant": "{a}"}
    assert named.data.sources["facts"].dialogue == turns
    assert load_spec(tiny.write(tmp_path, _dumped(named))).spec == named
    own = spec(tmp_path, mine, 'templates: {say: {system: "Be {q}.", user: "{q}", assistant: "{a}"}}\n')
    assert own.data.sources["facts"].rounds == (("system", "Be {q}."), ("user", "{q}"), ("assistant", "{a}"))
    over = spec(tmp_path, "      template: continue\n", 'templates: {continue: {user: "{q}", assistant: "{a}"}}\n')
    assert over.data.sources["facts"].dialogue == {"user": "{q}", "assistant": "{a}"}


def _dumped(found: Any) -> str:
    import json

    return json.dumps(found.dump())


@pytest.mark.parametrize(
    ("how", "top", "message", "hint"),
    [
        ("      template: sumarise\n", "", "no template is called `sumarise`", "`summarise`"),
        ('      template: summarise\n      template_fields: {txt: "{q}"}\n', "", "no place `{txt}`", "`text`"),
        (OWN + "      template: continue\n", "", "both say how a record is a dialogue", "keep one"),
        ("      template: continue\n      messages: turns\n", "", "both say how a record is a dialogue", "keep one"),
        (OWN + '      template_fields: {text: "{q}"}\n', "", "there is no `template:`", ""),
        ("      template: mine\n", 'templates: {mine: {usr: "{q}"}}\n', "`usr` is not a role", "`user`"),
        ("      template: mine\n", "templates: {mine: {}}\n", "a template without turns", ""),
        ("      template: mine\n", 'templates: {mine: {user: "{q"}}\n', "has no partner", ""),
        (OWN + "      shots: -1\n", "", "at least 0", ""),
    ],
)
def test_mistakes_are_told(how: str, top: str, message: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        spec(tmp_path, how, top)
    (problem,) = error.value.problems
    assert message in problem.message and hint in problem.hint and problem.mark


def test_a_field_that_no_record_has_is_named(tmp_path: Path) -> None:
    made = source("inline", records=RECORDS, dialogue=with_fields(BUILT_IN["summarise"], {}), validation="tail 20%")
    with pytest.raises(DataError) as caught:
        prepare(plan_of(tmp_path, {"talk": made}, ("chat", "sft", {"talk": 100}, "4 steps"), context=64))
    told = {problem.path[-1]: problem.message for problem in caught.value.problems}
    assert "no record has a field `text`" in told["user"] and "no record has a field `summary`" in told["assistant"]


# -- examples --------------------------------------------------------------------------------------------------------
RECORDS = tuple({"q": f"<{i}>", "a": f"{i % 9} {i}"} for i in range(40))


def pool(count: int, same: int = 0) -> list[Shot]:
    """Records of which the first `same` say the same."""
    said = [str(max(0, i - same + 1)) for i in range(count)]
    return [Shot(i, f"r:{i}", (Turn("user", (s,)), Turn("assistant", (s,)))) for i, s in enumerate(said)]


@given(count=st.integers(1, 5), size=st.integers(1, 12), same=st.integers(1, 3), seed=st.integers(0, 9))
@quick
def test_examples_are_others_and_hang_on_seed_and_record(count: int, size: int, same: int, seed: int) -> None:
    records = pool(size, same)
    different = len({shot.turns for shot in records})
    shots = Shots("s", count, records, seed)
    for shot in records:
        if different - 1 < count:
            with pytest.raises(DataError, match="other training records"):
                shots.of(shot.number, shot.turns)
            continue
        found = shots.of(shot.number, shot.turns)
        assert len(found) == len({f.turns for f in found}) == count
        assert shot.turns not in [f.turns for f in found]
        assert found == Shots("s", count, records, seed).of(shot.number, shot.turns)
    outside = Shots("s", 1, pool(200), seed).of(999, (Turn("user", ("new",)),))
    others = [Shots("s", 1, pool(200), s).of(n, (Turn("user", ("new",)),)) for s in range(4) for n in (998, 999)]
    assert outside in others or seed > 3
    assert len({f[0].number for f in others}) > 1


def test_what_the_system_says_stands_once() -> None:
    turns = [Turn("system", ("be",)), Turn("user", ("q",)), Turn("assistant", ("a",))]
    found = with_shots(turns, pool(1))
    assert [turn.role for turn in found] == ["system", "user", "assistant", "user", "assistant"]
    assert found[0] is turns[0] and found[-1] is turns[-1] and with_shots(turns, []) == turns


def prepared(folder: Path, shots: int, seed: int = 1, kind: str = "sft", **more: Any) -> PreparedData:
    made = source(
        "inline", records=RECORDS, dialogue={"user": "{q}", "assistant": "{a}"}, validation="tail 20%", shots=shots
    )
    plan = plan_of(folder, {"talk": made}, ("chat", kind, {"talk": 100}, "4 steps"), context=96, **more)
    plan.seed = seed
    return prepare(plan)


def read(data: PreparedData, side: int) -> list[list[str]]:
    """The questions of each dialogue of a side."""
    tokens = data.sides()["dialogue"][0][1 + side]
    texts = [
        data.codec.decode(tokens.tokens[a:b].tolist())
        for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)
    ]
    import re

    return [re.findall(r"<\d+>", text) for text in texts]


def test_examples_are_training_records_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path, 2, train_on="last_turn")
    trained, held = read(data, 0), read(data, 1)
    known, hidden = {record[-1] for record in trained}, {record[-1] for record in held}
    assert known | hidden == {r["q"] for r in RECORDS} and not known & hidden
    for record in (*trained, *held):
        assert len(record) == len(set(record)) == 3 and set(record[:-1]) <= known
    again, other = read(prepared(tmp_path, 2, train_on="last_turn"), 0), read(prepared(tmp_path, 2, seed=2), 0)
    assert again == trained != other and [r[-1] for r in other] == [r[-1] for r in trained]
    assert data.fingerprint("chat") != prepared(tmp_path, 1).fingerprint("chat")
    assert [len(record) for record in read(prepared(tmp_path, 0), 0)] == [1] * len(trained)
    batch = data.stream("chat").batch(0)
    for row in range(len(batch.tokens)):
        learned = [np.count_nonzero(batch.weights[row][batch.documents[row] == n]) for n in range(2)]
        assert set(learned) <= {4, 5}, "of each dialogue one answer alone, and its end"


def test_more_examples_than_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        prepared(tmp_path, 40)
    (problem,) = error.value.problems
    assert problem.path == ("data", "sources", "talk", "shots") and "31 at most" in problem.hint


def test_a_phase_of_pairs_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="pairs of one question and its answer"):
        prepared(tmp_path, 2, kind="seq2seq")


def test_explain_shows_one_filled_with_where_it_is_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = (
        "      template: translate\n      shots: 2\n"
        '      template_fields: {language: Spanish, text: "{q}", translation: "{a}"}\n'
    )
    text = tiny.TINY.replace(OWN, how).replace("context: 16", "context: 256").replace("kind: pretrain", "kind: sft")
    plan = compile_spec(load_spec(tiny.write(tmp_path, text.replace("{docs: 100%}", "{facts: 100%}"))).spec)
    report = explain_plan(plan, prepared=prepare(plan))
    (one,) = report.filled
    assert (one.source, one.template, one.shots, len(one.turns)) == ("facts", "translate", 2, 6)
    assert one.turns[-2].text == "Translate into Spanish.\n\none" and one.turns[-1].text == "uno"
    assert len({turn.where for turn in one.turns}) == 3
    show(report)
    assert "template translate, 2 examples before it" in capsys.readouterr().out
