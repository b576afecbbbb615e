"""What validation holds is not trained on, whatever it looks like; what it does not hold is never lost."""

from __future__ import annotations

import json
import time
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from documents import reading
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import cache, plan_of, source  # noqa: F401

from llmspec.core.problems import DataError
from llmspec.data import builder
from llmspec.data.contamination import EXAMPLES, alike, content, normalised, turns_alike
from llmspec.data.fetch import Fetch
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.data.reading import find_contamination, read_all
from llmspec.data.split import VALIDATES, Shaped
from llmspec.data.views import SourceView, content_keys
from llmspec.parts.sources import Document
from llmspec.parts.templates.base import Turn

quick = settings(deadline=None, max_examples=60)
word = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
texts = st.lists(word, min_size=1, max_size=5).map(" ".join)
LOOKS = {
    "verbatim": lambda t: t,
    "case": str.swapcase,
    "spaces": lambda t: "  " + t.replace(" ", "\n \t") + "\n",
    "a full stop": lambda t: f"{t}.",
    "unseen characters": lambda t: "\ufeff" + t.replace(" ", "\u00a0\u200b"),
    "compatibility": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "decomposed": lambda t: unicodedata.normalize("NFD", t),
    "all of them": lambda t: f"\t{unicodedata.normalize('NFD', t).upper()}.\u200b\n",
}
"""Ways to make a text look another; what it says stays."""

APART = [
    ("ab", "ba"),
    ("a b", "ab"),
    ("-5 degrees", "5 degrees"),
    ("a+b", "a-b"),
    ("a*b", "a/b"),
    ("1+1", "11"),
    ("1.5", "15"),
    ("3,14", "314"),
    ("3,14", "3.14"),
    ("1,000", "1.000"),
    ("v1.2.3", "v1.23"),
    ("10:30", "1030"),
    ("5%", "5"),
    ("$5", "5"),
    ("€5", "£5"),
    ("C#", "C"),
    ("C++", "C"),
    ("!x", "x"),
    ("x != y", "x = y"),
    ("a < b", "a > b"),
    ("x == 1", "x = 1"),
    ("x[0]", "x(0)"),
    ("x'", "x"),
    ("#5", "5"),
    ("~5", "5"),
    ("a_b", "ab"),
    ("a@b.c", "ab.c"),
    ("http://a.b/c", "http://a.b/d"),
    ("a.b/c?d=1", "a.b/cd1"),
    ("/etc", "etc"),
    ("-x", "--x"),
    ("can't", "cant"),
    ("well-known", "well known"),
    ("re-sign", "resign"),
    ("Stop!", "Stop?"),
    ("no?", "no"),
    ("(a)", "a"),
    ("“a”", "a"),
    ("Let's eat, Kim", "Let's eat Kim"),
    ("x = 1", "x 1"),
    ("!!", "??"),
    ("…", ""),
    ("naïve", "naive"),
    ("año", "ano"),
    ("कि", "क"),
    ("ก่า", "กา"),
    ("كَتَبَ", "كُتِبَ"),
    ("می‌خواهم", "میخواهم"),
    ("a\u0345", "a"),
    ("x²", "x2"),
    ("½", "12"),
    ("H₂O", "H2O"),
    ("①", "1"),
    ("👍", "👎"),
    ("👍🏽", "👍"),
    ("🙂", ""),
    ("a→b", "a←b"),
    ("∀x", "∃x"),
    ("x ∈ A", "x ∉ A"),
    ("¬p", "p"),
    ("5°", "5"),
    ("50 €", "50"),
    ("ı", "i"),
    ("は", "ば"),
]
"""Texts that say different things."""
ALIKE = [
    ("The Cat", "the cat"),
    ("US", "us"),
    ("STRASSE", "straße"),
    ("“so”", '"so"'),
    ("„so“", '"so"'),
    ("«so»", '"so"'),
    ("it’s", "it's"),
    ("‘so’", "'so'"),
    ("a – b", "a — b"),
    ("a\u2011b", "a-b"),
    ("\u22125", "-5"),
    ("a  b", "a\n\tb"),
    ("a\u00a0b", "a b"),
    ("a\u3000b", "a b"),
    ("é", "e\u0301"),
    ("각", "\u1100\u1161\u11a8"),
    ("ﬁne", "fine"),
    ("wait…", "wait..."),
    ("ＡＢ１", "ab1"),
    ("ｱ", "ア"),
    ("so\u00adft", "soft"),
    ("a\u200bb", "ab"),
    ("ﻻ", "لا"),
    ("Ⅳ", "iv"),
    ("ẞ", "ss"),
]
"""Texts that differ in typography."""


def shaped(text: str, place: str = "", turns: list[Turn] | None = None) -> Shaped:
    return Shaped(Document(place or "f", text), text, (text,), turns)


# -- the relation ----------------------------------------------------------------------------------------------------


@given(texts)
@quick
def test_normalising_is_done_once_and_forgets_looks_alone(text: str) -> None:
    once = normalised(text)
    assert normalised(once) == once and once == once.strip() and "  " not in once


@pytest.mark.parametrize("look", LOOKS)
@given(st.lists(st.text("abcdeéüßñж0123", min_size=1, max_size=8), min_size=1, max_size=6).map(" ".join))
@quick
def test_looks_do_not_hide_a_text(look: str, text: str) -> None:
    changed = LOOKS[look](text)
    assert alike(changed) == alike(text)
    one, other = ([Turn("user", ("hi",)), Turn("assistant", (t,))] for t in (text, changed))
    assert turns_alike(one) == turns_alike(other) != turns_alike([one[1], one[0]])


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_says_something_else_stays_apart(one: str, other: str) -> None:
    for frame in ("{}", "It says {} here.", "{}.", "f({})\n"):
        a, b = frame.format(one), frame.format(other)
        assert alike(a) != alike(b)
        assert turns_alike([Turn("user", (a,))]) != turns_alike([Turn("user", (b,))])


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_what_differs_in_typography_is_the_same_text(one: str, other: str) -> None:
    for frame in ("{}", "It says {} here.", "a\n{}"):
        assert alike(frame.format(one)) == alike(frame.format(other))


@given(st.text(alphabet="ab01 +-*/=.,:;!?#%&$()[]{}<>|^~_@\\'\"", max_size=12), st.data())
@quick
def test_no_sign_within_a_text_is_lost(text: str, data: st.DataObject) -> None:
    signs = [i for i, c in enumerate(text) if not c.isalnum() and not c.isspace()]
    if not signs:
        return
    at = data.draw(st.sampled_from(signs))
    assert alike(f"a{text}b") != alike(f"a{text[:at]}{text[at + 1 :]}b")


# -- planted ---------------------------------------------------------------------------------------------------------


@given(data=st.data(), count=st.integers(2, 12), names=st.integers(1, 3))
@quick
def test_all_that_is_planted_is_found_and_nothing_else(data: st.DataObject, count: int, names: int) -> None:
    unique = [f"text number {i} of a kind" for i in range(2 * count)]
    held, own = unique[:count], unique[count:]
    sides = {
        f"v{i}": reading([shaped(t, f"v{n}") for n, t in enumerate(held) if n % names == i], VALIDATES, f"v{i}")
        for i in range(names)
    }
    planted = data.draw(st.lists(st.tuples(st.sampled_from(held), st.sampled_from(list(LOOKS.values()))), max_size=8))
    training = [(shaped(t), False) for t in own] + [(shaped(look(t)), True) for t, look in planted]
    training = data.draw(st.permutations(training))
    own_ = reading([item for item, _ in training])
    find_contamination({**sides, "a": own_})
    for form in ("plain", "dialogue"):
        assert own_.contaminated[form].tolist() == [leaked for _, leaked in training]
        assert own_.contaminated_count[form] == len(planted) and len(own_.contaminated_examples[form]) == min(
            EXAMPLES, len(planted)
        )
    assert [item.text for item in own_.train_of["plain"]] == [item.text for item, leaked in training if not leaked]


def lines(folder: Path, name: str, found: list[str]) -> str:
    (folder / name).write_text("".join(json.dumps({"t": t}) + "\n" for t in found), encoding="utf-8")
    return name


def leaking(folder: Path, contamination: str = "drop") -> Any:
    """A plan of two sources, the first of which validates; leaks are planted within it and across."""
    own = [f"sentence {i} of the first" for i in range(40)]
    other = [f"paragraph {i} of the second" for i in range(30)]
    first = [own[35].upper(), *own[:35], *own[35:]]
    second = [*other, own[36], f"{own[37]}.", own[38].replace(" ", "\n  ")]
    parts = {
        "a": source("files", path=lines(folder, "a.jsonl", first), validation="tail 12%"),
        "b": source("files", path=lines(folder, "b.jsonl", second)),
    }
    return plan_of(
        folder, parts, ("p", "pretrain", {"a": 50, "b": 50}, "1 steps"), context=16, contamination=contamination
    )


def test_leaks_are_dropped_and_counted(tmp_path: Path) -> None:
    prepared = prepare(leaking(tmp_path))
    assert {s.name: s.contaminated for s in prepared.measured.sources} == {"a": 1, "b": 3}
    trained = {alike(i.text) for r in prepared.readings.values() for i in r.train_of["plain"]}
    held = {alike(i.text) for r in prepared.readings.values() for i in r.validation}
    assert held and not trained & held
    assert [len(r.train_of["plain"]) for r in prepared.readings.values()] == [35, 30]
    stream = prepared.stream("p")
    assert [row["documents_contaminated"] for row in stream.ledger().rows()] == [1, 3]
    assert [share.documents_contaminated for share in stream.planned()] == [1, 3]
    said = list(notices(prepared))
    assert any(
        line.startswith(
            "p leaves out 3 of 33 training records of b: 3 also in validation (b.jsonl:31 is a (a.jsonl:38); "
        )
        for line in said
    ), said


def test_leaks_are_refused_where_the_spec_says_so_also_when_the_tokens_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for attempt in range(2):
        with pytest.raises(DataError) as caught:
            prepare(leaking(tmp_path, "refuse"))
        first, second = caught.value.problems
        assert first.path == ("data", "sources", "a") and second.path == ("data", "sources", "b")
        assert "3 training documents of b are also in validation: b.jsonl:31 is a (a.jsonl:38)" in second.message
        assert "1 training document of a is also in validation: a.jsonl:1 is a (a.jsonl:37)" in first.message
        assert second.hint and second.consequence
        if not attempt:
            monkeypatch.setattr(builder, "read_all", lambda *args: pytest.fail("the texts were read again"))
    assert prepare(leaking(tmp_path)).measured.sources[1].contaminated == 3


def test_leaks_that_are_allowed_are_read_and_still_counted(tmp_path: Path) -> None:
    dropped, allowed = prepare(leaking(tmp_path)), prepare(leaking(tmp_path, "allow"))
    assert {s.name: s.contaminated for s in allowed.measured.sources} == {"a": 1, "b": 3}
    assert [len(r.train_of["plain"]) for r in allowed.readings.values()] == [36, 33]
    assert allowed.fingerprint("p") != dropped.fingerprint("p")
    assert any(
        "3 training documents of b are also in validation, and data.contamination allows it" in line
        for line in notices(allowed)
    )


def test_refusing_makes_nothing_anew_where_there_is_nothing_to_refuse(tmp_path: Path) -> None:
    part = source("inline", documents=tuple(f"text {i} of many" for i in range(40)), validation="tail 20%")
    stage = ("p", "pretrain", {"a": 100}, "1 steps")
    one, other = (prepare(plan_of(tmp_path, {"a": part}, stage, contamination=how)) for how in ("drop", "refuse"))
    assert one.stream("p").key == other.stream("p").key and one.measured == other.measured


# -- doubled sources -------------------------------------------------------------------------------------------------


def test_the_same_text_under_two_names_is_refused(tmp_path: Path) -> None:
    found = [f"some text with the number {i}" for i in range(30)]
    lines(tmp_path, "a.jsonl", found)
    lines(tmp_path, "b.jsonl", [t.upper() for t in reversed(found)])
    parts = {name: source("files", path=f"{name}.jsonl") for name in "ab"}
    with pytest.raises(DataError) as caught:
        prepare(plan_of(tmp_path, parts, ("p", "pretrain", {"a": 50, "b": 50}, "1 steps")))
    (problem,) = caught.value.problems
    assert problem.path == ("phases", "p", "mixture", "b") and "holds the same text as a" in problem.message
    assert "twice as often" in problem.consequence and "give a its share" in problem.hint
    # One text more, or another phase, and they are two sources.
    apart = [(phase, "pretrain", {name: 100}, "1 steps") for phase, name in (("p", "a"), ("q", "b"))]
    prepare(plan_of(tmp_path, parts, *apart))
    lines(tmp_path, "b.jsonl", [*found, "one more"])
    prepare(plan_of(tmp_path, parts, ("p", "pretrain", {"a": 50, "b": 50}, "1 steps")))


def test_a_source_as_text_and_the_same_as_dialogues_are_two(tmp_path: Path) -> None:
    records = tuple({"q": f"question {i}", "a": f"answer {i}"} for i in range(30))
    parts = {
        "text": source("inline", records=records, text="{q}\n\n{a}"),
        "chat": source("inline", records=records, dialogue={"user": "{q}", "assistant": "{a}"}),
    }
    prepare(plan_of(tmp_path, parts, ("p", "sft", {"text": 50, "chat": 50}, "1 steps"), context=64))


@given(found=st.lists(texts, min_size=1, max_size=9), more=texts, data=st.data())
@quick
def test_content_is_the_set_of_texts(found: list[str], more: str, data: st.DataObject) -> None:
    keys = lambda texts: content(np.array([alike(t) for t in texts], "S16"))
    one = keys(found)
    twice = keys(data.draw(st.permutations([*found, found[0]])))
    assert (twice.key, twice.documents, twice.duplicates) == (one.key, one.documents + 1, one.duplicates + 1)
    assert one.documents - one.duplicates == len({alike(t) for t in found})
    new = alike(more) not in {alike(t) for t in found}
    assert (keys([*found, more]).key != one.key) == new
    assert set(reading([shaped("a")]).content) == {"plain"}
    assert set(reading([shaped("a", turns=[Turn("user", ("a",))])]).content) == {"plain", "dialogue"}


# -- speed -----------------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_documents_take_seconds(tmp_path: Path) -> None:
    normalised("a")
    items = [shaped(f"Document number {i}: it says “{i * i}”, and little else.") for i in range(100_000)]
    began = time.process_time()
    trained = reading(items[5_000:])
    find_contamination({"v": reading(items[:10_000], VALIDATES, "v"), "a": trained})
    seconds = time.process_time() - began
    assert trained.contaminated_count["plain"] == 5_000 and len(trained.train_of["plain"]) == 90_000 and trained.content
    assert seconds < 6, seconds


def test_keys_follow_what_is_done_with_leaks() -> None:
    part = source("inline", documents=("a", "b"))
    keys = {how: content_keys({"a": part}, {"a": "x"}, (), how) for how in ("drop", "refuse", "allow")}
    assert keys["drop"] == keys["refuse"] != keys["allow"]
    readings = read_all({"a": part}, [SourceView("a", "plain")], Fetch(Path(".")), (), lambda *_: None, "drop")
    assert SimpleNamespace(**vars(readings["a"])).contaminated_examples == {
        form: [] for form in ("plain", "dialogue", "preference")
    }
