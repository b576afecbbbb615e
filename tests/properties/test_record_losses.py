"""What a phase leaves out of its sources: every record once, said before step 0, and refused where it is much."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import FORMATS, SPOILED, dropped_for, record
from test_sources import cache, plan_of, source  # noqa: F401

from llmspec.cli.opening import tell_unknown
from llmspec.core.problems import DataError, Problem
from llmspec.data.losses import Loss, folded
from llmspec.data.notices import notices
from llmspec.data.prepare import PreparedData, prepare
from llmspec.data.shaping import EMPTY, FORMAT, NOT_TEXT, ROLE, UNREADABLE
from llmspec.data.unknown import Unknown, of_prompt
from llmspec.parts import tokenizers

FORM, HOW = st.sampled_from(list(FORMATS)), st.sampled_from(list(SPOILED))
REASONS = {EMPTY, ROLE, NOT_TEXT, UNREADABLE, FORMAT}


# -- whole sources ---------------------------------------------------------------------------------------------------


def written(folder: Path, records: list[dict[str, Any]]) -> None:
    (folder / "r.jsonl").write_text("".join(json.dumps(found) + "\n" for found in records))


def talk(folder: Path, records: list[dict[str, Any]], kind: str = "sft", **more: Any) -> Any:
    """A phase of that kind that reads these records, whatever they lose."""
    written(folder, records)
    part = source("files", path="r.jsonl", **{"max_dropped": 100, **more})
    return plan_of(folder, {"r": part}, ("p", kind, {"r": 100}, "1 steps"), context=128)


def learned(prepared: PreparedData) -> int:
    """Training documents that blocks are made of."""
    layout = prepared.stream("p")._layouts["r"]
    return len(getattr(layout, "kept", prepared.sides()["plain"][0][1].lengths if "plain" in prepared.sides() else ()))


@pytest.mark.parametrize("kind", ["sft", "pretrain"])
@given(
    made=st.lists(st.tuples(FORM, HOW, st.integers(0, 30)), min_size=1, max_size=25),
    twins=st.integers(0, 9),
    held=st.sampled_from(["", "hash 30%", "tail 50%"]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_record_is_learned_or_counted_under_one_reason(
    kind: str, made: list[tuple[str, str, int]], twins: int, held: str, tmp_path: Path
) -> None:
    sound = [FORMATS["Alpaca"](i) for i in range(100, 112)]
    made = [*made, *made[:twins]]
    records = [*sound[:6], *(record(*one) for one in made), *sound[6:]]
    prepared = prepare(talk(tmp_path, records, kind, **({"validation": held} if held else {})))
    (loss,) = prepared.losses
    assert loss.records + loss.held_out == len(records) == prepared.about["r"]["documents"]
    assert learned(prepared) == loss.records - sum(loss.dropped.counts.values())
    (share,) = prepared.measured.phases["p"]
    assert share.dropped == loss.dropped.counts and share.validation_dropped == loss.not_validated.counts
    assert (share.documents_dropped or 0) + (share.documents_contaminated or 0) == sum(loss.dropped.counts.values())
    if kind == "sft":
        assert counted(loss) == expected(made)


def counted(loss: Loss) -> dict[str, int]:
    """Reason -> documents of both sides, but of those that are dropped since validation holds them."""
    both = {
        reason: loss.dropped.counts.get(reason, 0) + loss.not_validated.counts.get(reason, 0)
        for reason in (*loss.dropped.counts, *loss.not_validated.counts)
    }
    both.pop("also in validation", None)
    both.pop("too long", None), both.pop("no turn to train on", None)
    return both


def expected(made: list[tuple[str, str, int]]) -> dict[str, int]:
    reasons = [reason for form, spoiled, _ in made if (reason := dropped_for(form, spoiled)) in REASONS]
    return {reason: reasons.count(reason) for reason in reasons}


def refused(plan: Any) -> tuple[Problem, ...]:
    with pytest.raises(DataError) as caught:
        prepare(plan)
    return caught.value.problems


def test_a_phase_that_loses_more_than_a_tenth_asks_for_a_word(tmp_path: Path) -> None:
    records = [record("Alpaca", "an empty answer" if i % 5 == 0 else "as it is", i) for i in range(40)]
    (problem,) = refused(talk(tmp_path, records, max_dropped=10))
    assert problem.path == ("phases", "p", "mixture", "r")
    assert problem.message.startswith(
        "p would leave out 8 of 40 records of r, more than its max_dropped of 10%: "
        "8 empty (r.jsonl:1: a turn of assistant; r.jsonl:6: "
    )
    assert "`max_dropped: 20%` at data.sources.r" in problem.hint and "the other 32" in problem.consequence
    prepare(talk(tmp_path, records, max_dropped=20))
    long = [{"prompt": "p", "completion": "word " * n} for n in range(2, 102)]
    (problem,) = refused(talk(tmp_path, long, max_dropped=10))
    needed = int(problem.hint.partition("raise model.context: at ")[2].partition(",")[0])
    assert 440 < needed < 480 and "too long" in problem.message
    plan = talk(tmp_path, long, max_dropped=10)
    plan.model.context = needed
    assert prepare(plan).losses[0].dropped.counts == {"too long": 9}
    prepare(talk(tmp_path, records[1:5] * 10 + records[:4], max_dropped=10))


def test_what_several_phases_lose_is_told_once(tmp_path: Path) -> None:
    written(tmp_path, [record("Alpaca", "an empty answer" if i % 5 == 0 else "as it is", i) for i in range(40)])
    parts = {"r": source("files", path="r.jsonl", max_dropped=10)}
    stages = [(name, "sft", {"r": 100}, "1 steps") for name in ("a", "first", "leave")]
    (problem,) = refused(plan_of(tmp_path, parts, *stages, context=128))
    assert problem.path == ("phases", "a", "mixture", "r") and problem.message.endswith("; likewise in first, leave")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("rs"), st.integers(0, 1)), unique=True))
def test_problems_that_differ_in_more_than_the_phase_stay_apart(made: list[tuple[str, str, int]]) -> None:
    """Nothing is lost by telling what is alike once: each phase is named with what it has."""
    said = [Problem(f"{name} loses {n} of {of}", ("phases", name, "mixture", of), f"fix {of}") for name, of, n in made]
    said += [Problem("a source", ("data", "sources", "r"))]
    found = folded(said)
    assert found[-1] == said[-1] and len(found) == 1 + len({(of, n) for _, of, n in made})
    told = set()
    for problem in found[:-1]:
        message, _, others = problem.message.partition("; likewise in ")
        first, _, rest = message.partition(" loses ")
        told |= {(name, rest) for name in [first, *others.split(", ")] if name}
    assert told == {(name, f"{n} of {of}") for name, of, n in made}


def test_each_reason_is_counted_apart_and_said(tmp_path: Path) -> None:
    records = [FORMATS["ShareGPT"](i) for i in range(60)]
    records += [
        record("ShareGPT", how, 70 + i)
        for i, how in enumerate(
            [
                "a tool",
                "an image",
                "an empty answer",
                "no answer",
                "a huge answer",
                "no role",
                "another record",
                "a tool",
            ]
        )
    ]
    said = list(notices(prepare(talk(tmp_path, records))))
    assert said[0] == (
        "data.sources.r: dialogues in the ShareGPT format; the first record (r.jsonl:1) has id, "
        "conversations; not read: id"
    )
    (lost,) = [line for line in said if "leaves out" in line]
    assert lost.startswith(
        "p leaves out 8 of 68 training records of r: 2 unknown role (r.jsonl:61: `tool`; r.jsonl:68: "
    )
    for reason in (
        "1 not text (r.jsonl:62: a part of kind `image_url`)",
        "1 empty (r.jsonl:63: a turn of assistant)",
        "1 no turn to train on",
        "1 too long",
        "1 unreadable (r.jsonl:66",
        "1 unknown format (r.jsonl:67: it has title, body)",
    ):
        assert reason in lost


def test_the_same_text_again_is_said_and_kept(tmp_path: Path) -> None:
    records = [FORMATS["question and answer"](i % 30) for i in range(40)]
    prepared = prepare(talk(tmp_path, records))
    assert "r: 10 of its 40 documents duplicate another one and are kept" in list(notices(prepared))
    assert prepared.measured.sources[0].duplicates == 10 and not prepared.losses[0].dropped.counts


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        ({"titel": "a", "body": "b", "id": "x1"}, '`dialogue: {user: "{titel}", assistant: "{body}"}`'),
        ({"prompt": "a", "chosen": "b", "id": "x"}, '`dialogue: {user: "{prompt}", assistant: "{chosen}"}`'),
        ({"q": "a", "a": "b"}, '`text: "{q}\\n\\n{a}"`'),
        ({"n": 3, "tags": ["a"]}, "none of these holds text"),
    ],
)
def test_dialogues_of_no_known_format_are_refused_with_what_was_found(
    found: dict[str, Any], hint: str, tmp_path: Path
) -> None:
    (problem,) = refused(talk(tmp_path, [found] * 30))
    assert problem.path == ("phases", "p", "mixture", "r") and f"has {', '.join(found)}" in problem.message
    assert "(r.jsonl:1)" in problem.message and hint in problem.hint


@pytest.mark.parametrize(
    "found",
    [
        {"text": "some words"},
        {"id": "a1", "content": "some words", "url": "http://a.b"},
        {"headline": "some words", "n": 3},
    ],
)
def test_records_of_one_text_are_plain_text_in_a_phase_of_dialogues(found: dict[str, Any], tmp_path: Path) -> None:
    prepared = prepare(talk(tmp_path, [{**found, "n": i} for i in range(90)]))
    assert not prepared.stream("p").speaks("r") and prepared.about["r"]["train"]["characters"] == 900


def test_what_the_spec_says_wins_over_what_is_recognised(tmp_path: Path) -> None:
    records = [{**FORMATS["Alpaca"](i), "text": f"text {i}"} for i in range(40)]
    spoken = prepare(talk(tmp_path, records))
    assert spoken.stream("p").speaks("r") and spoken.measured.sources[0].format == "Alpaca"
    plain = prepare(talk(tmp_path, records, text="{text}"))
    assert not plain.stream("p").speaks("r") and not plain.measured.decisions and not plain.measured.sources[0].format
    read = prepare(talk(tmp_path, records, "pretrain"))
    assert read.measured.sources[0].format == "" and "plain text of text" in read.measured.decisions[0].value
    turns = prepare(talk(tmp_path, records, dialogue={"user": "{text}", "assistant": "{output}"}))
    assert turns.stream("p").speaks("r") and not turns.measured.decisions
    assert len({p.fingerprint("p") for p in (spoken, plain, turns)}) == 3


# -- unknown letters -------------------------------------------------------------------------------------------------


def lettered(folder: Path, foreign: int, **settings: Any) -> Any:
    """Text with so many foreign letters in 1,000, the alphabet of which the vocabulary has no room for."""
    text = "".join("жщю"[i % 3] if i < foreign else "abcde fgh\n"[i % 10] for i in range(1000))
    (folder / "t.txt").write_text(text * 3, encoding="utf-8")
    tokenizer = tokenizers.TABLE["char"](vocab=len(tokenizers.TABLE["char"]().specials()) + 10, **settings)
    return plan_of(
        folder, {"t": source("files", path="t.txt")}, ("p", "pretrain", {"t": 100}, "1 steps"), tokenizer=tokenizer
    )


def test_unknown_letters_are_said_and_too_many_are_refused(tmp_path: Path) -> None:
    from llmspec.core.units import Share

    said = list(notices(prepare(lettered(tmp_path, 30))))
    assert "t: 90 characters of its training text (3%) are not in the vocabulary and become <|unk|>: ж щ ю" in said
    (problem,) = refused(lettered(tmp_path, 90))
    assert problem.message == "9% of the characters in the training text of t are not in the vocabulary: ж щ ю"
    assert problem.path == ("data", "sources", "t") and "max_unknown: 9%" in problem.hint
    allowed = prepare(lettered(tmp_path, 90, max_unknown=Share(9)))
    assert allowed.measured.sources[0].unknown == pytest.approx(0.09)
    # A limit shapes no text: the key of what was made under it is the same.
    assert allowed.fingerprint("p") == prepare(lettered(tmp_path, 90, max_unknown=Share(99))).fingerprint("p")


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_tokenizers_with_bytes_know_every_letter(kind: str) -> None:
    codec = (
        tokenizers.TABLE["byte"]().train(())
        if kind == "byte"
        else tokenizers.TABLE["bpe"](vocab=270).train(["abcabcabc " * 50, "a b c " * 50])
    )
    assert Unknown(codec).add(["жщю\u0378"]).dump()["unknown"] == 0


def test_unknown_letters_of_prompts_are_told_and_markers_are_no_letters(capsys: pytest.CaptureFixture[str]) -> None:
    part = tokenizers.TABLE["char"](vocab=30, markers=("<|m|>",))
    codec = part.train(["ab"])
    assert of_prompt(codec, "a<|m|>b", part.markers) == ""
    said = "2 of its characters are not in the vocabulary, and are read as <|unk|>: ж"
    assert of_prompt(codec, "a<|m|>жbж", part.markers) == said
    model = SimpleNamespace(codec=codec, plan=SimpleNamespace(tokenizer=part))
    tell_unknown(model, "ab<|m|>")
    assert capsys.readouterr() == ("", "")
    tell_unknown(model, "жb", "ж")
    assert " ".join(capsys.readouterr().err.split()) == f"note: the prompt: {said}"


@given(st.text("abж\n", max_size=30), st.text("abcdжщ", max_size=30))
def test_unknown_letters_are_counted_as_they_are_encoded(known: str, text: str) -> None:
    part = tokenizers.TABLE["char"](vocab=30)
    codec = part.train([known])
    found = Unknown(codec).add([text]).dump()
    ids = codec.encode([text])[0]
    assert found["unknown"] == ids.count(codec.specials["<|unk|>"]) == sum(c not in known for c in text)
    assert found["characters"] == len(text) and set(found["letters"]) == set(text) - set(known)


# -- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_say_what_is_left_out(tmp_path: Path) -> None:
    records = [record("Alpaca", "an empty answer" if i in (3, 4) else "an empty input", i) for i in range(40)]
    written(tmp_path, records)
    spec = tiny.TINY.partition("data:")[0].replace("context: 16", "context: 64") + (
        "data: {sources: {r: {kind: files, path: r.jsonl}}}\n"
        "phases: {p: {kind: sft, mixture: {r: 100%}, budget: 1 steps, micro_batch_size: 2}}\n"
    )
    path, out = str(tiny.write(tmp_path, spec)), str(tmp_path / "out")
    said = "p leaves out 2 of 40 training records of r: 2 empty (r.jsonl:4: a turn of assistant; r.jsonl:5: "
    found = json.loads(small.call("check", path, "--data", "--json")[1].splitlines()[-1])
    assert any(notice.startswith(said) for notice in found["notices"]), found
    report = " ".join(small.call("explain", path)[1].split())
    assert "(left out: 2 empty)" in report and "dialogues in the Alpaca format" in report
    status, ran = small.call("run", path, "--out", out)
    assert status == 0 and said in " ".join(ran.split()), ran
    assert "left out: 2 empty" in " ".join(small.call("explain", out)[1].split())
