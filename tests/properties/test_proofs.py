"""What is claimed before step 0 is shown, and each planted error is caught by the proof that is there for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import event, given, settings
from strategies import specs, yaml_text
from test_sources import plan_of, source

from llmspec.compiler import Plan, compile_spec, complete, pending, proofs, prove, refuse
from llmspec.compiler.mask_proof import APART, FUTURE, examined
from llmspec.compiler.masks import Relation
from llmspec.compiler.proofs import BUDGETED, COUNTED, LEARNED, MARKED, NUMBERED, UNSEEN, Proof
from llmspec.core.problems import DataError, SpecError
from llmspec.data import reading as reading_texts
from llmspec.data.contamination import HeldOut
from llmspec.data.layout import PlainLayout
from llmspec.data.packing import DialogueLayout
from llmspec.data.prepare import PreparedData, prepare
from llmspec.data.proofs import data_proofs
from llmspec.spec import load_spec


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path_factory.mktemp("cache")))


def quickstart(*overrides: str) -> Plan:
    return compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", ["device=CPU", *overrides]).spec)


def failed(found: tuple[Proof, ...]) -> list[str]:
    return [proof.name for proof in found if proof.holds is False]


RECORDS = tuple({"q": f"question {i}?", "a": f"answer {i}."} for i in range(60))
SHAPE = {"user": "{q}", "assistant": "{a}"}


def chat_plan(folder: Path, context: int = 64, contamination: str = "drop", mask: bool = True) -> Any:
    """A chat phase on dialogues and text, both with validation."""
    (folder / "text.jsonl").write_text("".join(json.dumps({"t": f"some text, number {i}"}) + "\n" for i in range(80)))
    parts = {
        "talk": source("inline", records=RECORDS, dialogue=SHAPE, validation="tail 20%"),
        "text": source("files", path="text.jsonl", validation="hash 20%"),
    }
    return plan_of(
        folder,
        parts,
        ("chat", "sft", {"talk": 60, "text": 40}, "4 steps"),
        context=context,
        contamination=contamination,
        document_mask=mask,
    )


# -- sound plans -----------------------------------------------------------------------------------------------------


def test_a_shipped_spec_is_proven_with_counts() -> None:
    plan = quickstart()
    found = {proof.name: proof for proof in (*prove(plan), *pending(plan))}
    assert [p.holds for p in found.values()] == [True, True, True, None, None, None, None, None]
    assert "= 1,967,808" in found[COUNTED].evidence and "of 4 layers" in found[COUNTED].evidence
    assert "4 attention layers, pretrain, decoding" in found[FUTURE].evidence and "chat)" in found[APART].evidence
    assert found[UNSEEN].evidence == "proven when the data are read"
    refuse(found.values())


@settings(max_examples=20)
@given(data=specs())
def test_what_runs_is_proven(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tiny.write(tmp_path_factory.mktemp("spec"), yaml_text(data))
    plan = compile_spec(load_spec(path).spec, base=str(path.parent))
    try:
        prepared = prepare(plan, offline=True)
    except DataError:
        event("refused")
        return
    event("completed")
    found = (*prove(complete(plan, prepared.measured)), *data_proofs(prepared))
    assert not failed(found), found
    allowed = data["data"].get("contamination") == "allow"
    assert {p.name for p in found if p.holds is None} == ({UNSEEN} if allowed else set())
    assert {p.name for p in pending(plan)} == {p.name for p in data_proofs(prepared)}
    assert all(Proof.model_validate_json(p.model_dump_json()) == p for p in found)


@pytest.mark.parametrize("mask", [True, False])
def test_data_are_proven_with_counts(tmp_path: Path, mask: bool) -> None:
    found = {proof.name: proof for proof in data_proofs(prepare(chat_plan(tmp_path, mask=mask)))}
    assert set(found) == {LEARNED, MARKED, UNSEEN, *([NUMBERED] if mask else [])}
    assert all(proof.holds for proof in found.values()) and "8 blocks" in found[LEARNED].evidence
    assert "compared" in found[UNSEEN].evidence and "drawn blocks" in found[MARKED].evidence


# -- planted: masks --------------------------------------------------------------------------------------------------

RELATIONS = {
    "off by one": (lambda q, k, a, b: k <= q + 1, "sees the future place"),
    "one too few": (lambda q, k, a, b: k < q, "does not even see place"),
    "everything": (lambda q, k, a, b: k <= k, "sees the future place"),
    "the wrong way round": (lambda q, k, a, b: q <= k, "sees the future place"),
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
    found = [proof for proof in proofs.mask_proofs(plan) if proof.holds is False]
    assert found and any(said in proof.evidence for proof in found), found
    with pytest.raises(SpecError, match="not so: no token sees"):
        quickstart()


def test_the_right_masks_are_proven_for_every_length() -> None:
    for mask in (Relation(), Relation(documents=True)):
        wrong, evidence = examined(mask, Relation.allows)
        assert not wrong and "longer ones by order alone" in evidence


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
    proof = proofs.parameter_proof(model.model_copy(update={"tensors": tensors}))
    assert proof.holds is False and proof.name == COUNTED and "table" in proof.evidence


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
    assert proofs.budget_proof(plan).holds
    phase = plan.phases[0]
    shares = (phase.shares[0].model_copy(update=change),)
    wrong = proofs.budget_proof(plan.model_copy(update={"phases": (phase.model_copy(update={"shares": shares}),)}))
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
    assert failed(data_proofs(everything)) == [MARKED]
    (proof,) = [p for p in data_proofs(everything) if p.holds is False]
    assert "'question" in proof.evidence or "is learned and should not be" in proof.evidence
    assert proof.path == ("phases", "chat", "mixture", "talk")


def test_learning_the_wrong_side_is_caught(tmp_path: Path) -> None:
    swapped = tampered(chat_plan(tmp_path), DialogueLayout, _counts=lambda c: np.roll(c, 1))
    assert failed(data_proofs(swapped)) == [MARKED]


def test_a_batch_with_nothing_to_learn_is_caught(tmp_path: Path) -> None:
    assert LEARNED in failed(data_proofs(tampered(chat_plan(tmp_path), DialogueLayout, _counts=np.zeros_like)))
    counts = tampered(chat_plan(tmp_path), DialogueLayout, _supervised=np.zeros_like)
    assert failed(data_proofs(counts)) == [LEARNED]


@pytest.mark.parametrize("layout", [DialogueLayout, PlainLayout])
def test_a_leak_across_documents_is_caught(layout: type, tmp_path: Path) -> None:
    unmasked = tampered(chat_plan(tmp_path), layout, _mask=lambda mask: False)
    assert failed(data_proofs(unmasked)) == [NUMBERED]


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
    assert not failed(data_proofs(prepare(plan))) and prepare(plan).contaminated["talk"] > 0
    monkeypatch.setattr(HeldOut, "find", lambda self, keys: np.full(len(keys), -1))
    monkeypatch.setattr(reading_texts, "FORMAT", -1)
    (proof,) = [p for p in data_proofs(prepare(plan)) if p.holds is False]
    assert proof.name == UNSEEN and "of talk's training text validates text" in proof.evidence


def test_leaks_that_are_allowed_are_said_and_not_refused(tmp_path: Path) -> None:
    prepared = prepare(chat_plan(tmp_path, contamination="allow"))
    (proof,) = [p for p in data_proofs(prepared) if p.name == UNSEEN]
    assert proof.holds is None and "data.contamination: allow" in proof.evidence
    refuse(data_proofs(prepared))


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
    assert "nothing of talk is ever learned" in problem.message and problem.hint and problem.consequence


# -- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_list_the_proofs(tmp_path: Path) -> None:
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
    spec, out = tiny.write(tmp_path, text), tmp_path / "out"
    plain = tiny.call("check", spec, COLUMNS="80")
    assert plain.returncode == 0 and plain.stdout.count("✓") == 3 and plain.stdout.count("·") == 5
    assert "proven when the data are read" in plain.stdout and max(map(len, plain.stdout.splitlines()[1:])) <= 80
    told = json.loads(tiny.call("check", spec, "--data", "--json").stdout)
    assert told["ok"] and all(p["holds"] for p in told["proofs"]) and len(told["proofs"]) == 8
    assert "proofs" in tiny.call("explain", spec).stdout
    done = tiny.call("run", spec, "--out", out)
    assert done.returncode == 0 and "proven before step 0" in done.stdout
    kept = json.loads((out / "proofs.json").read_text())
    assert [p["name"] for p in kept] == [p["name"] for p in told["proofs"]] and all(p["holds"] for p in kept)
    report = json.loads(tiny.call("explain", out, "--json").stdout)
    assert report["proofs"] == kept and "checked before step 0" in tiny.call("explain", out).stdout
