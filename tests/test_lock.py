"""A run that is locked runs on nothing else than its lock says, and says in plain words what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny

from llmspec.compiler import compile_spec
from llmspec.core.problems import RunError
from llmspec.runs.lock import ADVICE, PACKAGES, Lock, LockDifference, differences, refused, revisions, sections
from llmspec.spec import load_spec

FIELDS = list(Lock.model_fields)


def lock_of(*overrides: str) -> Lock:
    plan = compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml", ["device=CPU", *overrides]).spec)
    return Lock.of(plan, {"plays": "a" * 64, "wiki": "b" * 64}, "{}")


LOCKED = lock_of()


def changed(field: str) -> dict[str, Any]:
    """Other values of a field: name of the change -> the value."""
    value = getattr(LOCKED, field)
    if isinstance(value, dict):
        first = next(iter(value))
        other = value[first] + 1 if isinstance(value[first], int) else value[first] + "x"
        return {
            "another": {**value, first: other},
            "one more": {**value, "new.one": value[first]},
            "one less": {k: v for k, v in value.items() if k != first},
        }
    return {"another": value + 1 if isinstance(value, int) else value + "x"}


CHANGES = [(field, what) for field in FIELDS for what in changed(field)]


def test_a_lock_holds_what_the_result_follows_from() -> None:
    assert set(LOCKED.packages) == set(PACKAGES) and set(ADVICE) == set(FIELDS)
    assert {"model", "tokenizer", "decoding", "data.sources.wiki", "phases.chat", "name"} <= set(LOCKED.spec)
    assert {
        "attentions.grouped_query",
        "optimizers.muon",
        "optimizers.adamw",
        "schedules.linear",
        "phases.sft",
        "sources.package",
        "tokenizers.bpe",
        "objectives.cross_entropy",
        "filters.top_p",
    } <= set(LOCKED.parts)


def test_it_reads_back_equal_and_differs_from_itself_in_nothing(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text(json.dumps(LOCKED.model_dump(mode="json")))
    assert Lock.read(tmp_path) == Lock.read(tmp_path / "lock.json") == LOCKED == lock_of()
    assert differences(LOCKED, lock_of()) == []


@pytest.mark.parametrize(("field", "what"), CHANGES, ids=[" ".join(c) for c in CHANGES])
def test_each_field_gives_exactly_its_own_difference(field: str, what: str) -> None:
    (found,) = differences(LOCKED, LOCKED.model_copy(update={field: changed(field)[what]}))
    assert found.what.partition(".")[0] == field and found.was != found.now
    assert (found.was == "") == (what == "one more") and (found.now == "") == (what == "one less")
    (problem,) = refused([found]).problems
    assert problem.hint and problem.consequence and "{" not in problem.hint


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("phases.chat.optimizer.lr=1e-5", ["spec.phases.chat"]),
        ("model.dropout=0.1", ["spec.model"]),
        ("model.init.std=0.5", ["spec.model"]),
        ("seed=2", ["seed"]),
        ("decoding.top_p=0.5", ["spec.decoding"]),
        ("tokenizer.vocab=1024", ["spec.tokenizer", "spec.model"]),
        ("device=CUDA", ["device"]),
        ("name=b", ["spec.name"]),
        ("data.sources.wiki.validation=hash 4%", ["spec.data.sources.wiki"]),
        ("model.mlp.kind=gelu", ["spec.model", "parts.mlps.gelu", "parts.mlps.swiglu"]),
    ],
)
def test_what_a_spec_changes_is_named_and_nothing_else(override: str, expected: list[str]) -> None:
    assert sorted(d.what for d in differences(LOCKED, lock_of(override))) == sorted(expected)


def test_another_order_of_sums_is_another_run_and_old_locks_do_not_name_theirs() -> None:
    assert LOCKED.products.startswith("own tiles of ") and lock_of("device=CUDA").products == ""
    other = LOCKED.model_copy(update={"products": "own tiles of 6 × 16 (of another processor)"})
    (found,) = differences(LOCKED, other)
    assert "what multiplies matrices is own tiles" in str(refused([found]).problems[0].message)
    old = Lock.model_validate({k: v for k, v in LOCKED.model_dump(mode="json").items() if k != "products"})
    assert differences(old, LOCKED) == differences(LOCKED, old) == []


def test_a_part_of_another_revision_is_another_part(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmspec.parts import optimizers

    monkeypatch.setattr(optimizers.TABLE["muon"], "revision", 7)
    assert differences(LOCKED, lock_of()) == [
        LockDifference("parts.optimizers.muon", str(LOCKED.parts["optimizers.muon"]), "7")
    ]
    plan = compile_spec(load_spec(tiny.ROOT / "specs/quickstart.yaml").spec)
    assert revisions(plan)["optimizers.muon"] == 7 and set(sections(plan)) == set(LOCKED.spec)


def test_where_no_lock_can_be_read_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no lock at .*lock\.json") as caught:
        Lock.read(tmp_path)
    assert "without --locked" in caught.value.problems[0].hint
    for text, said in (
        ("{", "damaged"),
        ('{"plan": "x"}', "not a lock file that this version reads"),
        ("[]", "not a lock file"),
    ):
        (tmp_path / "lock.json").write_text(text)
        with pytest.raises(RunError, match=said):
            Lock.read(tmp_path)


def test_the_command_end_to_end(tmp_path: Path) -> None:
    records = [f'{{"q": "q{i}", "a": "answer {i}"}}\n' for i in range(40)]
    (tmp_path / "facts.jsonl").write_text("".join(records))
    text = tiny.TINY[: tiny.TINY.index("    docs:")] + (
        "    facts: {kind: files, path: facts.jsonl, validation: tail 20%}\n"
        "phases:\n  p: {kind: pretrain, mixture: {facts: 100%}, budget: 3 steps, micro_batch_size: 2}\n"
    )
    spec, out = tiny.write(tmp_path, text), tmp_path / "out"
    arguments = ("run", spec, "--out", out)

    first = tiny.call(*arguments, "--locked")
    assert first.returncode == 2 and "there is no lock" in first.stderr and not (out / "plan.json").exists()
    assert tiny.call(*arguments).returncode == 0
    written = (out / "lock.json").read_bytes()
    for more in (("--locked",), ("--lock", out / "lock.json"), ("--lock", out)):
        again = tiny.call(*arguments, *more)
        assert again.returncode == 0 and "trained before" in again.stdout, again.stderr

    for sets, said in (
        (("--set", "seed=9"), ["the seed is 9, and 7 in the lock", "--set seed=7"]),
        (("--set", "phases.p.micro_batch_size=3"), ["phases.p has changed", "under spec/"]),
    ):
        other = tiny.call(*arguments, "--locked", *sets)
        assert other.returncode == 2 and all(words in other.stderr for words in said), other.stderr
        assert "problems" not in other.stderr
    (tmp_path / "facts.jsonl").write_text("".join(records[1:]))
    other = tiny.call(*arguments, "--locked")
    assert other.returncode == 2 and "the text of facts has changed" in other.stderr and "problems" not in other.stderr
    assert (out / "lock.json").read_bytes() == written
