"""What is claimed before step 0 is shown, and each planted error is caught by the check that is there for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import caches
import numpy as np
import pytest
import small
import tiny
from hypothesis import event, given, settings
from strategies import specs, yaml_text
from test_sources import plan_of, source

from llmspec.compiler import Plan, checks, compile_spec, complete, pending, plan_checks, refuse
from llmspec.compiler.checks import BUDGETED, COUNTED, LEARNED, MARKED, NUMBERED, UNSEEN, Check
from llmspec.compiler.mask_proof import APART, FUTURE, examined
from llmspec.compiler.masks import Relation
from llmspec.core.problems import DataError, SpecError
from llmspec.data import builder
from llmspec.data.checks import data_checks
from llmspec.data.contamination import HeldOut
from llmspec.data.layout import PlainLayout
from llmspec.data.packing import DialogueLayout
from llmspec.data.prepare import PreparedData, prepare
from llmspec.spec import load_spec


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPEC_CACHE", str(caches.copied(tmp_path_factory.mktemp("cache"))))


def quickstart(*overrides: str) -> Plan:
    return compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", ["device=CPU", *overrides]).spec)


def failed(found: tuple[Check, ...]) -> list[str]:
    return [check.name for check in found if check.holds is False]


RECORDS = tuple({"q": f"question {i}?", "a": f"answer {i}."} for i in range(60))
SHAPE = {"user": "{q}", "assistant": "{a}"}


def chat_plan(
    folder: Path, context: int = 64, contamination: str = "drop", mask: bool = True, shape: Any = SHAPE, **more: Any
) -> Any:
    """A chat phase on dialogues and text, both with validation."""
    (folder / "text.jsonl").write_text("".join(json.dumps({"t": f"some text, number {i}"}) + "\n" for i in range(80)))
    parts = {
        "talk": source("inline", records=RECORDS, dialogue=shape, validation="tail 20%"),
        "text": source("files", path="text.jsonl", validation="hash 20%"),
    }
    return plan_of(
        folder,
        parts,
        ("chat", "sft", {"talk": 60, "text": 40}, "4 steps"),
        context=context,
        contamination=contamination,
        document_mask=mask,
        **more,
    )


# -- sound plans -----------------------------------------------------------------------------------------------------


def test_a_shipped_spec_is_checked_with_counts() -> None:
    plan = quickstart()
    found = {check.name: check for check in (*plan_checks(plan), *pending(plan))}
    assert [p.holds for p in found.values()] == [True, True, True, None, None, None, None, None]
    assert "= 1,967,808" in found[COUNTED].evidence and "of 4 layers" in found[COUNTED].evidence
    assert "4 attention layers, pretrain, decoding" in found[FUTURE].evidence and "chat)" in found[APART].evidence
    assert found[UNSEEN].evidence == "checked when the data are read"
    refuse(found.values())


@settings(max_examples=20)
@given(data=specs())
def test_what_runs_is_checked(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tiny.write(tmp_path_factory.mktemp("spec"), yaml_text(data))
    plan = compile_spec(load_spec(path).spec, base=str(path.parent))
    try:
        prepared = prepare(plan, offline=True)
    except DataError:
        event("refused")
        return
    event("completed")
    found = (*plan_checks(complete(plan, prepared.measured)), *data_checks(prepared))
    assert not failed(found), found
    allowed = data["data"].get("contamination") == "allow"
    # Tokens of such a template tell neither who speaks nor, without one that begins, where dialogues begin.
    untold = {MARKED, NUMBERED} if data.get("chat_template", {}).get("kind") == "jinja" else set()
    assert {p.name for p in found if p.holds is None} - untold == ({UNSEEN} if allowed else set())
    assert {p.name for p in pending(plan)} == {p.name for p in data_checks(prepared)}
    assert all(Check.model_validate_json(p.model_dump_json()) == p for p in found)


@pytest.mark.parametrize("mask", [True, False])
def test_data_are_checked_with_counts(tmp_path: Path, mask: bool) -> None:
    found = {check.name: check for check in data_checks(prepare(chat_plan(tmp_path, mask=mask)))}
    assert set(found) == {LEARNED, MARKED, UNSEEN, *([NUMBERED] if mask else [])}
    assert all(check.holds for check in found.values()) and "8 blocks" in found[LEARNED].evidence
    assert "compared" in found[UNSEEN].evidence and "sampled blocks" in found[MARKED].evidence


# -- planted: masks --------------------------------------------------------------------------------------------------

RELATIONS = {
    "off by one": (lambda q, k, a, b: k <= q + 1, "sees the future position"),
    "one too few": (lambda q, k, a, b: k < q, "does not even see position"),
    "everything": (lambda q, k, a, b: k <= k, "sees the future position"),
    "the wrong way round": (lambda q, k, a, b: q <= k, "sees the future position"),
    "short memory": (lambda q, k, a, b: (k <= q) & (q - k < 9) & (a == b), "does not see its own past"),
    "documents forgotten": (lambda q, k, a, b: k <= q, "sees another document"),
    "documents in order": (lambda q, k, a, b: (k <= q) & (b <= a), "sees another document"),
    "only in long blocks": (lambda q, k, a, b: (k <= q + (q > 99)) & (a == b), "does more than compare"),
    "a window in long blocks": (lambda q, k, a, b: (k <= q) & (q - k < 99) & (a == b), "does not see its own past"),
    "places for documents": (lambda q, k, a, b: (k <= q) & (a == b) & (k <= 99), "does more than compare"),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_a_wrong_mask_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = quickstart()
    relation, said = RELATIONS[name]
    monkeypatch.setattr(Relation, "allows", lambda self, q, k, a=0, b=0, prefix=False: relation(q, k, a, b))
    found = [check for check in checks.mask_proofs(plan) if check.holds is False]
    assert found and any(said in check.evidence for check in found), found
    with pytest.raises(SpecError, match="check failed: no token sees"):
        quickstart()


def test_the_right_masks_are_proven_for_every_length() -> None:
    for mask in (Relation(), Relation(documents=True)):
        wrong, evidence = examined(mask, Relation.allows)
        assert not wrong and "longer blocks follow" in evidence


# -- planted: parameters and budgets ---------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["one too many", "one missing", "another shape", "twice"])
def test_a_wrong_parameter_count_is_caught(what: str) -> None:
    model = quickstart().model
    first, *rest = model.tensors
    tensors = {
        "one too many": (*model.tensors, first.model_copy(update={"name": "new"})),
        "one missing": tuple(rest),
        "another shape": (first.model_copy(update={"shape": (2049, 192)}), *rest),
        "twice": (first, *rest[:-1], rest[0]),
    }[what]
    check = checks.parameter_check(model.model_copy(update={"tensors": tensors}))
    assert check.holds is False and check.name == COUNTED and "table" in check.evidence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks": 7}, "blocks"),
        ({"epochs": 900.0}, "max_epochs is 4"),
        ({"tokens_read": 10**9}, "more than"),
        ({"tokens_supervised": 10**9}, "more than"),
    ],
)
def test_a_budget_that_does_not_hold_is_caught(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    spec = tiny.write(
        tmp_path,
        yaml_text(
            {
                "name": "x",
                "device": "CPU",
                "model": {"context": 16, "d_model": 16, "layers": 1},
                "data": {"sources": {"a": {"kind": "inline", "documents": ["some text " * 50]}}},
                "phases": {
                    "p": {"kind": "pretrain", "mixture": {"a": "100%"}, "budget": "4 steps", "micro_batch_size": 2}
                },
            }
        ),
    )
    plan = compile_spec(load_spec(spec).spec)
    plan = complete(plan, prepare(plan).measured)
    assert checks.budget_check(plan).holds
    phase = plan.phases[0]
    shares = (phase.shares[0].model_copy(update=change),)
    wrong = checks.budget_check(plan.model_copy(update={"phases": (phase.model_copy(update={"shares": shares}),)}))
    assert wrong.holds is False and said in wrong.evidence and wrong.path[:2] == ("phases", "p")
    with pytest.raises(SpecError, match=BUDGETED):
        refuse([wrong])


# -- planted: data ---------------------------------------------------------------------------------------------------


def tampered(plan: Any, layout: type, **arrays: Any) -> PreparedData:
    """The prepared data of a plan, some arrays of one kind of layout overwritten in every phase."""
    prepared = prepare(plan)
    for name in prepared.phases:
        for own in prepared.stream(name)._layouts.values():
            if isinstance(own, layout):
                for attribute, change in arrays.items():
                    setattr(own, attribute, change(getattr(own, attribute)))
    return prepared


def test_a_lost_sft_mask_is_caught(tmp_path: Path) -> None:
    everything = tampered(chat_plan(tmp_path), DialogueLayout, _counts=np.ones_like)
    assert failed(data_checks(everything)) == [MARKED]
    (check,) = [p for p in data_checks(everything) if p.holds is False]
    assert "'question" in check.evidence or "counts in the loss and should not" in check.evidence
    assert check.path == ("phases", "chat", "mixture", "talk")


def test_learning_the_wrong_side_is_caught(tmp_path: Path) -> None:
    swapped = tampered(chat_plan(tmp_path), DialogueLayout, _counts=lambda c: np.roll(c, 1))
    assert failed(data_checks(swapped)) == [MARKED]


ROUNDS = ({"user": "{q}", "assistant": "{a}"}, {"user": "{q} {q}", "assistant": "no: {a}"})


def test_an_earlier_turn_that_is_learned_with_the_last_is_caught(tmp_path: Path) -> None:
    def plan() -> Any:
        return chat_plan(tmp_path, 128, shape=ROUNDS, train_on="last_turn")

    assert failed(data_checks(prepare(plan()))) == []
    assert failed(data_checks(tampered(plan(), DialogueLayout, _from=np.zeros_like))) == [MARKED]
    assert MARKED in failed(data_checks(tampered(plan(), DialogueLayout, _from=lambda begins: begins + 1)))


def test_a_batch_with_nothing_to_learn_is_caught(tmp_path: Path) -> None:
    assert LEARNED in failed(data_checks(tampered(chat_plan(tmp_path), DialogueLayout, _counts=np.zeros_like)))
    counts = tampered(chat_plan(tmp_path), DialogueLayout, _supervised=np.zeros_like)
    assert failed(data_checks(counts)) == [LEARNED]


@pytest.mark.parametrize("layout", [DialogueLayout, PlainLayout])
def test_a_leak_across_documents_is_caught(layout: type, tmp_path: Path) -> None:
    unmasked = tampered(chat_plan(tmp_path), layout, _mask=lambda mask: False)
    assert failed(data_checks(unmasked)) == [NUMBERED]


def test_a_validation_document_in_training_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = chat_plan(tmp_path)
    plan.sources[0] = plan.sources[0].model_copy(
        update={
            "source": source(
                "inline",
                records=tuple({"q": "one", "a": f"some text, number {i}"} for i in range(100)),
                text="{a}",
                max_dropped=30,
            )
        }
    )
    assert not failed(data_checks(prepare(plan))) and prepare(plan).contaminated["talk"] > 0
    monkeypatch.setattr(HeldOut, "find", lambda self, keys: np.full(len(keys), -1))
    monkeypatch.setattr(builder, "FORMAT", -1)
    (check,) = [p for p in data_checks(prepare(plan)) if p.holds is False]
    assert check.name == UNSEEN and "of talk's training text is also in the validation text of text" in check.evidence


def test_leaks_that_are_allowed_are_said_and_not_refused(tmp_path: Path) -> None:
    prepared = prepare(chat_plan(tmp_path, contamination="allow"))
    (check,) = [p for p in data_checks(prepared) if p.name == UNSEEN]
    assert check.holds is None and "data.contamination: allow" in check.evidence
    refuse(data_checks(prepared))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dialogue": {"user": "{q}", "system": "{a}"}}, "no turn to train on"),
        ({"records": tuple({"q": "why? " * 30, "a": f"{i}"} for i in range(9))}, "too long"),
    ],
)
def test_a_source_that_teaches_nothing_is_refused_with_its_reason(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    plan = chat_plan(tmp_path)
    part = plan.sources[0].source.model_copy(update={**change, "validation": None})
    plan.sources[0] = plan.sources[0].model_copy(update={"source": part})
    with pytest.raises(DataError) as caught:
        prepare(plan)
    (problem,) = caught.value.problems
    assert problem.path == ("phases", "chat", "mixture", "talk") and reason in problem.message
    assert "nothing of talk can be trained on" in problem.message and problem.hint and problem.consequence


# -- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_list_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = yaml_text(
        {
            "name": "x",
            "device": "CPU",
            "model": {"context": 32, "d_model": 8, "layers": 1},
            "data": {
                "sources": {
                    "a": {"kind": "inline", "records": list(RECORDS), "dialogue": SHAPE, "validation": "tail 10%"}
                }
            },
            "phases": {"p": {"kind": "sft", "mixture": {"a": "100%"}, "budget": "2 steps", "micro_batch_size": 2}},
        }
    )
    monkeypatch.setenv("COLUMNS", "80")
    spec, out = str(tiny.write(tmp_path, text)), tmp_path / "out"

    def said(*arguments: str) -> str:
        status, words = small.call(*arguments)
        assert status == 0, words
        return words

    plain = said("check", spec)
    assert plain.count("✓") == 3 and plain.count("·") == 5
    assert "checked when the data are read" in plain and max(map(len, plain.splitlines()[1:])) <= 80
    told = json.loads(said("check", spec, "--data", "--json").splitlines()[-1])
    assert told["ok"] and all(p["holds"] for p in told["checks"]) and len(told["checks"]) == 8
    assert "checks" in said("explain", spec)
    assert "checked before step 0" in said("run", spec, "--out", str(out))
    kept = json.loads((out / "checks.json").read_text())
    assert [p["name"] for p in kept] == [p["name"] for p in told["checks"]] and all(p["holds"] for p in kept)
    report = json.loads(said("explain", str(out), "--json"))
    assert report["checks"] == kept and "checked before step 0" in said("explain", str(out))
