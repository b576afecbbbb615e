"""What would end a run late ends it before step 0; a sample that fails ends nothing; chat samples answer dialogues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from test_going_back import SHORT, trained

from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import SpecError
from llmspec.data.prepare import PreparedData, prepare
from llmspec.decoding import chat_prompt, text_prompt
from llmspec.runs.files import Rows
from llmspec.spec import load_spec, read_spec
from llmspec.training import engine, prompts, trainer
from llmspec.training.tasks import supervised

LONG = "a prompt that is much longer than the context"


def made(folder: Path, *sets: str) -> tuple[Any, PreparedData]:
    """(complete plan, its data) of the short spec."""
    plan = compile_spec(load_spec(tiny.write(folder, SHORT), sets).spec)
    prepared = prepare(plan, offline=True)
    return complete(plan, prepared.measured), prepared


def rows(folder: Path, phase: str) -> list[dict[str, Any]]:
    return Rows(folder / "run" / phase / "samples.jsonl").read()


# -- prompts -----------------------------------------------------------------------------------------------------------
def test_every_prompt_that_does_not_fit_is_named_at_once(tmp_path: Path) -> None:
    """With the tokens that mark turns: a user's turn has four more than its text, a document one."""
    fits, chat_fits = "x" * 14, "x" * 11
    sets = (
        f"phases.first.prompts=[{fits}, {fits}y, '{LONG}']",
        f"phases.second.prompts=['{LONG}', {chat_fits}, {chat_fits}y]",
    )
    with pytest.raises(SpecError) as caught:
        prompts.rehearse(*made(tmp_path, *sets))
    assert [p.path for p in caught.value.problems] == [
        ("phases", "first", "prompts", 1),
        ("phases", "first", "prompts", 2),
        ("phases", "second", "prompts", 0),
        ("phases", "second", "prompts", 2),
    ]
    assert all("context is 16" in p.message and p.hint and p.consequence for p in caught.value.problems)
    _, prepared = made(tmp_path)
    assert (
        len(text_prompt(prepared.codec, fits))
        == len(chat_prompt(prepared.codec, prepared.template, [("user", chat_fits)]))
        == 15
    )


def test_the_hint_is_enough(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        prompts.rehearse(*made(tmp_path, f"phases.second.prompts=['{LONG}']"))
    (problem,) = caught.value.problems
    by = int(problem.hint.split(" by ")[1].split(" or ")[0])
    prompts.rehearse(*made(tmp_path, f"phases.second.prompts=['{LONG[by:]}']"))
    with pytest.raises(SpecError):
        prompts.rehearse(*made(tmp_path, f"phases.second.prompts=['{LONG[by - 1 :]}']"))


@pytest.mark.parametrize("verb", [("check",), ("check", "--data"), ("run",)])
def test_both_verbs_say_so_with_line_and_column(tmp_path: Path, verb: tuple[str, ...]) -> None:
    learned = "tokenizer: {kind: char, vocab: 64, max_unknown: 50%}" if len(verb) > 1 else "tokenizer: {kind: byte}"
    text = SHORT.replace("prompts: [one]", f"prompts: [one, {LONG}]").replace("tokenizer: {kind: byte}", learned)
    spec = tiny.write(tmp_path, text)
    out = ("--out", tmp_path / "run") if verb == ("run",) else ()
    done = tiny.call(verb[0], spec, *verb[1:], *out)
    line = next(i for i, text in enumerate(spec.read_text().splitlines(), 1) if LONG in text)
    assert done.returncode == 2 and f"{spec.name}:{line}:" in done.stderr.replace("\n", "")
    assert "phases.second.prompts[1]" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "plan.json").exists()


def test_letters_that_the_vocabulary_lacks_are_counted(tmp_path: Path) -> None:
    tokenizer = "tokenizer={kind: char, vocab: 64, max_unknown: 100%}"
    said = prompts.rehearse(*made(tmp_path, tokenizer, "phases.second.prompts=[oéné]"))
    assert any("second, prompt 1: 2 of its characters" in s and "<|unk|>" in s for s in said)


def test_prompts_that_leave_little_room_are_named(tmp_path: Path) -> None:
    sets = ("phases.first.prompts=[twelve chars]", "phases.second.prompts=[one]", "decoding.max_tokens=40")
    said = prompts.rehearse(*made(tmp_path, *sets))
    assert said == ["first, prompt 1: it leaves room for 3 tokens of an answer, and max_tokens is 40"]


def test_settings_that_draw_nothing_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmspec.parts.filters import TABLE

    def broken(*_: object) -> None:
        raise ZeroDivisionError("of nothing")

    plan, prepared = made(tmp_path, "decoding.top_p=0.5")
    monkeypatch.setattr(TABLE["top_p"], "apply", broken)
    with pytest.raises(SpecError, match="ZeroDivisionError: of nothing") as caught:
        prompts.rehearse(plan, prepared)
    assert caught.value.problems[0].path == ("decoding",)


def test_a_context_of_one_token_is_refused(tmp_path: Path) -> None:
    from llmspec.compiler import check_sections

    reading = read_spec(tiny.write(tmp_path, SHORT), ["model.context=1"])
    found = [p for p in check_sections(reading.sections) if p.path == ("model", "context")]
    assert len(found) == 1 and "2 or more" in found[0].hint


# -- prompts of chat phases that have none -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sets", "expected", "side"),
    [
        ((), ["nine", "ten"], "validation text of facts"),
        (("data.sources.facts.validation=null",), ["one", "two", "three"], "training text of facts"),
        (
            ('data.sources.facts.dialogue=[{system: "s", user: "{q}", assistant: "{a}"}]', "model.context=32"),
            ["s\nnine", "s\nten"],
            "validation text of facts",
        ),
    ],
)
def test_samples_answer_the_first_dialogues(
    tmp_path: Path, sets: tuple[str, ...], expected: list[str], side: str
) -> None:
    plan, prepared = made(tmp_path, "phases.second.prompts=[]", *sets)
    found = prompts.prompts_of(plan, plan.phase("second"), prepared)
    assert [p.text for p in found] == expected and {p.origin for p in found} == {side} and all(p.chat for p in found)
    spoken = [
        chat_prompt(
            prepared.codec, prepared.template, [*([("system", "s")] if "\n" in t else []), ("user", t.split("\n")[-1])]
        )
        for t in expected
    ]
    assert [p.tokens for p in found] == spoken, "the very tokens that a user's turn has"
    (said,) = prompts.rehearse(plan, prepared)
    assert f"first {len(expected)} dialogues of the {side}" in said


def test_dialogues_that_do_not_fit_are_passed_over_and_counted(tmp_path: Path) -> None:
    plan, prepared = made(tmp_path, "phases.second.prompts=[]", "model.context=16")
    for context, left, words in ((9, ["nine", "ten"], ""), (8, ["ten"], "1 of 2"), (5, [""], "no dialogue")):
        small = plan.model_copy(update={"model": plan.model.model_copy(update={"context": context})})
        found = prompts.prompts_of(small, plan.phase("second"), prepared)
        assert [p.text for p in found] == left
        (said,) = prompts.rehearse(small, prepared)
        assert words in said


def test_the_rows_say_where_a_prompt_comes_from(tmp_path: Path) -> None:
    heard = trained(tmp_path, "phases.second.prompts=[]", "phases.second.sample_every=100%")
    assert any("has no `prompts:`" in n for n in heard.notices)
    assert [(r["prompt"], r["from"], r["step"]) for r in rows(tmp_path, "second")] == [
        ("nine", "validation text of facts", 4),
        ("ten", "validation text of facts", 4),
    ]
    assert all(r["prompt"] == "" and "from" not in r for r in rows(tmp_path, "first"))


# -- while it trains ---------------------------------------------------------------------------------------------------
def test_a_sample_that_fails_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(*given: Any, **more: Any) -> Any:
        calls.append(given)
        if len(calls) % 2:
            raise MemoryError("no room")
        return real(*given, **more)

    real = supervised.generate
    monkeypatch.setattr(supervised, "generate", failing)
    heard = trained(tmp_path)
    assert heard.phases == ["first", "second"] and len(heard.steps) == 10
    found = [*rows(tmp_path, "first"), *rows(tmp_path, "second")]
    bad = [r for r in found if r["finish_reason"] == "error"]
    assert 0 < len(bad) < len(found) and all(r["error"] == "MemoryError: no room" and r["text"] == "" for r in bad)
    assert sum("training goes on" in n for n in heard.notices) == len(bad)
    shown = tiny.call("explain", tmp_path / "run").stdout
    assert "it failed: MemoryError: no room" in shown


def test_a_validation_loss_that_is_no_number_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trainer.Trainer.evaluate

    def evaluate(self: Any, batch: Any) -> Any:
        return {name: total * float("nan") for name, total in real(self, batch).items()}

    monkeypatch.setattr(trainer.Trainer, "evaluate", evaluate)
    heard = trained(tmp_path)
    assert len(heard.steps) == 10 and not heard.metrics
    assert any("the validation loss of facts after step 6 of first is nan" in n for n in heard.notices)
    assert not any("validation" in row for row in Rows(tmp_path / "run/first/metrics.jsonl").read())


def test_what_is_measured_beside_the_training_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmspec.training import run as module

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "peak_flops", broken)
    monkeypatch.setattr(engine.estimates, "remember", broken)
    heard = trained(tmp_path)
    assert len(heard.steps) == 10
    assert [n for n in heard.notices if "Input/output error" in n and ("peak" in n or "how long" in n)]
    assert trained(tmp_path).taken == ["first", "second"]


EXTREMES = {
    "the shortest context": (
        "model.context=2",
        "phases.second={kind: pretrain, mixture: {facts: 100%}, budget: 2 steps}",
    ),
    "one number wide": (
        "model.d_model=1",
        "model.attention={heads: 1, kv_heads: 1}",
        "model.position.kind=alibi",
        "model.mlp.d_ff=1",
    ),
    "one step each": (
        "phases.first.budget=1 steps",
        "phases.second.budget=1 steps",
        "phases.first.sample_every=9 steps",
    ),
    "a vocabulary of one letter": ("tokenizer={kind: char, vocab: 8, max_unknown: 100%}",),
    "one token drawn": ("decoding.max_tokens=1", "decoding.temperature=1e-300", "decoding.stop=['<|end|>']"),
}


SLOW = ("the shortest context", "one number wide", "a vocabulary of one letter")
"""Kernels that no other test has made."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.nightly) if n in SLOW else n for n in EXTREMES])
def test_extremes_that_are_legal_work(tmp_path: Path, name: str) -> None:
    heard = trained(tmp_path, *EXTREMES[name])
    assert heard.phases == ["first", "second"] and heard.samples and heard.metrics
