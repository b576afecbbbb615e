"""Tags of words as records have them, what is wrong with them, and how good they are."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError, LlmspecError, SpecError
from llmspec.core.tag_schemes import entities
from llmspec.data.notices import notices
from llmspec.data.prepare import prepare
from llmspec.data.tags import strays
from llmspec.decoding.classifying import LabelChance
from llmspec.decoding.prompt_file import read
from llmspec.decoding.tagging import Tagged, TaggedWord, listed
from llmspec.parts.sources.word_lists import stretches, words_in
from llmspec.spec import load_spec
from llmspec.training.tag_scores import entity_scores, tag_scores

quick = settings(deadline=None, max_examples=200)


# -- entities and scores ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),  # without a beginning
        ("B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),  # of another type
        ("O O", []),
        ("B-PER I-PER E-PER S-LOC", [("PER", 0, 2), ("LOC", 3, 3)]),
        ("E-PER I-PER", [("PER", 0, 0), ("PER", 1, 1)]),
        ("NOUN VERB NOUN O", [("NOUN", 0, 0), ("VERB", 1, 1), ("NOUN", 2, 2)]),
        ("B-geo-loc I-geo-loc", [("geo-loc", 0, 1)]),
    ],
)
def test_entities_by_hand(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == expected


def conlleval(tags: list[str]) -> list[tuple[str, int, int]]:
    """By the tables of where chunks end and begin (conlleval; Tjong Kim Sang & Buchholz 2000)."""
    ends = {("B", "B"), ("B", "O"), ("I", "B"), ("I", "O"), ("B", "S"), ("I", "S")}
    starts = {("O", "I"), ("O", "E"), ("E", "I"), ("E", "E"), ("S", "I"), ("S", "E")}
    found, begin, before, kind = [], 0, "O", ""
    for i, tag in enumerate([*tags, "O"]):
        mark, _, now = tag.partition("-")
        other = before != "O" and kind != now
        if before != "O" and (before in ("E", "S") or (before, mark) in ends or other):
            found.append((kind, begin, i - 1))
        if mark in ("B", "S") or (before, mark) in starts or (mark != "O" and kind != now):
            begin = i
        before, kind = mark, now
    return found


TAGS = st.lists(st.sampled_from(["O", *(f"{m}-{k}" for m in "BIES" for k in "XY")]), max_size=12)


@given(TAGS)
@quick
def test_entities_are_those_of_conlleval(tags: list[str]) -> None:
    assert entities(tags) == conlleval(tags)
    begun = {i for _, i, _ in entities(tags) if tags[i][0] in "IE"}
    assert strays(tags) == len(begun)


LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")


@given(st.lists(st.lists(st.tuples(*[st.integers(0, 4)] * 2), min_size=1, max_size=7), min_size=1, max_size=6))
@quick
def test_scores_are_those_of_their_definitions(drawn: list[list[tuple[int, int]]]) -> None:
    true, said = ([np.array([pair[k] for pair in one]) for one in drawn] for k in (0, 1))
    metrics, table = tag_scores(true, said, LABELS)
    value = {m.name: m.value for m in metrics}
    spans = [
        {(n, *span) for n, one in enumerate(side) for span in conlleval([LABELS[i] for i in one])}
        for side in (true, said)
    ]
    right = len(spans[0] & spans[1])
    assert value["precision"] == pytest.approx(right / len(spans[1]) if spans[1] else 0)
    assert value["recall"] == pytest.approx(right / len(spans[0]) if spans[0] else 0)
    assert value["F1 micro"] == pytest.approx(2 * right / max(1, len(spans[0]) + len(spans[1])))
    kinds = sorted({span[1] for side in spans for span in side})
    each = [
        2 * sum(s[1] == k for s in spans[0] & spans[1]) / sum(s[1] == k for side in spans for s in side) for k in kinds
    ]
    assert value["F1 macro"] == pytest.approx(np.mean(each) if each else 0)
    assert table["entities"]["labels"] == kinds
    assert [row[3] for row in table["entities"]["scores"]] == pytest.approx(each)
    pairs = Counter(
        (int(a), int(b)) for one, other in zip(true, said, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert {(i, j): n for i, j, n in table["confusion"]} == dict(pairs)
    assert value["accuracy"] == pytest.approx(sum(n for (i, j), n in pairs.items() if i == j) / pairs.total())
    assert [row[0] for row in table["scores"]] == [sum(n for (i, _), n in pairs.items() if i == k) for k in range(5)]


def test_scores_by_hand() -> None:
    # Two of three entities are found, one too long; one that is none was said beside.
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-LOC", "O"]]
    said = [["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "B-LOC", "I-LOC"]]
    (there, precision, recall, f1), macro, each = entity_scores(true, said)
    assert (there, precision, recall, f1) == (3, pytest.approx(2 / 4), pytest.approx(2 / 3), pytest.approx(4 / 7))
    assert each == {"LOC": (2, 0.5, 0.5, 0.5), "PER": (1, 0.5, 1.0, pytest.approx(2 / 3))}
    assert macro == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert entity_scores([["O"]], [["O"]]) == ((0, 0.0, 0.0, 0.0), 0.0, {})


# -- words -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["EU", " rejects "], ["EU", "rejects"]),
        ("EU rejects", ["EU", "rejects"]),
        ([0, 3], ["0", "3"]),
        (["a", ""], None),
        (["a", None], None),
        ([True], None),
        ([0.5], None),
        ({"a": 1}, None),
        (None, None),
        ([], []),
    ],
)
def test_the_words_of_a_field(value: Any, expected: list[str] | None) -> None:
    assert words_in(value) == expected


def test_words_are_tokenised_with_the_space_before_them() -> None:
    assert stretches(["a", "b", "c"]) == ["a", " b", " c"] and stretches([]) == []


def test_a_sentence_with_its_tags() -> None:
    words = [("EU", "B-ORG"), ("rejects", "O"), ("German", "B-MISC"), ("call", "O"), ("today", "")]
    found = Tagged(tuple(TaggedWord(word, (LabelChance(tag, 0.5),) if tag else ()) for word, tag in words))
    assert listed(found) == "EU [B-ORG] rejects German [B-MISC] call today"
    assert listed(found, ["B-ORG", "O", "O", "B-MISC", ""]) == (
        "EU [B-ORG] rejects German [B-MISC, is O] call [O, is B-MISC] today"
    )
    assert [(e.kind, e.text, e.first, e.last) for e in found.entities] == [
        ("ORG", "EU", 0, 0),
        ("MISC", "German", 2, 2),
    ]


def test_prompts_may_be_words() -> None:
    (found,), unread = read(b'{"tokens": ["New York", "calls"]}', "a.jsonl")
    assert found.words == ("New York", "calls") and found.text == "New York calls" and not unread
    for wrong in ('{"tokens": []}', '{"tokens": ["a", 1]}', '{"tokens": ["a"], "prompt": "a"}'):
        with pytest.raises(LlmspecError, match="`tokens`"):
            read(wrong.encode(), "a.jsonl")


# -- what is wrong ---------------------------------------------------------------------------------------------------
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
      words: "{tokens}"
      tags: "{ner_tags}"
phases:
  told:
    kind: tag
    mixture: {facts: 100%}
    budget: 2 epochs of facts
    micro_batch_size: 2
"""


def records(folder: Any, *more: dict[str, Any], numbers: bool = False) -> None:
    tags = [0, 1, 2] if numbers else ["O", "B-LOC", "I-LOC"]
    lines = [
        {"tokens": [f"in {i}", "Rome", "now"], "ner_tags": [tags[0], tags[1], tags[2 * (i % 2)]]} for i in range(60)
    ]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, [*lines, *more])))


SOURCE, PHASE = ("data", "sources", "facts"), ("phases", "told")


@pytest.mark.parametrize(
    ("change", "path", "said", "hint"),
    [
        ("model.mask={kind: prefix}", (*PHASE, "kind"), "has a prefix", "causal or bidirectional"),
        ("data.sources.facts.words=null; data.sources.facts.tags=null", SOURCE, "no `tags:`", '"{ner_tags}"'),
        ("data.sources.facts.words=null", SOURCE, "half of tagged words", ""),
        ("data.sources.facts.tags=null", SOURCE, "half of tagged words", ""),
        ("data.sources.facts.tags=ner_tags", (*SOURCE, "tags"), "one field of a record; write `{ner_tags}`", ""),
        ('data.sources.facts.words="{a} {b}"', (*SOURCE, "words"), "one field of a record", ""),
        ("data.sources.facts.replace={a: b}", SOURCE, "read as they are", ""),
        ("phases.told.labels=[O, O]", PHASE, "stands twice", ""),
        ("phases.told.objective={head: lm}", (*PHASE, "objective", "head"), "logits of tags", "leave `head:` out"),
        ("phases.told.objective={kind: cross_entropy}", (*PHASE, "objective"), "predicts the next", ""),
        ("phases.told.heads={tokens: {kind: scalar}}", (*PHASE, "objective"), "no logits of tags", ""),
        ("phases.told.multi_label=true", (*PHASE, "multi_label"), "", ""),
        ("phases.told.early_stopping={metric: F1 marco}", (*PHASE, "early_stopping"), "", "F1 macro"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_so_is_refused(
    change: str, path: tuple[Any, ...], said: str, hint: str, tmp_path: Any
) -> None:
    with pytest.raises(SpecError) as refused:
        compile_spec(load_spec(tiny.write(tmp_path, SPEC), change.split("; ")).spec)
    found = [p for p in refused.value.problems if p.path[: len(path)] == path]
    assert any(said in p.message and hint in p.hint for p in found), refused.value.problems


ODD = [{"tokens": ["a", "b"], "ner_tags": [0, 3]}] * 9
FEW = [{"tokens": ["a", "b"], "ner_tags": ["O"]}] * 9


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        ("seed=0", FEW, "with another number of tags than of words.*facts.jsonl:61: 2 words and 1 tags"),
        ("seed=0", [{"tokens": ["a"]}] * 9, "without tags.*facts.jsonl:61"),
        ("seed=0", [{"ner_tags": ["O"], "x": "y"}] * 9, "empty"),
        ("data.sources.facts.tag_names=[O]", [], "nothing of facts can be trained on.*of a tag without a name"),
        ("data.sources.facts.tag_names=[O, B, I]", ODD, "of a tag without a name.*jsonl:61: 3, and `tag_names:` has 3"),
        ("phases.told.labels=[O, B-LOC, I-LOK]", [], "training word has the label `I-LOK`.*did you mean `I-LOC`"),
        ("phases.told.labels=[O, B-LOC]", [], "of a label that is not listed"),
        ("phases.told.max_tokens=5", [], "too long"),
        ('data.sources.facts.tags="{tags}"', [], "no record has a field `tags`.*"),
    ],
)
def test_what_the_data_do_not_have_is_named_before_step_0(
    change: str, more: list[dict[str, Any]], said: str, tmp_path: Any
) -> None:
    records(tmp_path, *more, numbers="tag_names" in change)
    with pytest.raises(DataError, match=f"(?s){said}"):
        prepare(compile_spec(load_spec(tiny.write(tmp_path, SPEC), [change]).spec))


def test_what_is_worth_saying_of_tags(tmp_path: Any) -> None:
    alone = {"tokens": ["it", "is", "odd", "B"], "ner_tags": ["O", "I-LOC", "B-ODD", "O"]}
    long = {"tokens": ["word"] * 9, "ner_tags": ["O"] * 9}
    records(tmp_path, alone, long, {"tokens": ["a"], "ner_tags": []})
    changes = ["phases.told.truncation=end", 'data.sources.facts.validation="tail 10%"', "seed=3"]
    lines = (tmp_path / "facts.jsonl").read_text().splitlines()
    (tmp_path / "facts.jsonl").write_text("\n".join([*lines[-3:], *lines[:-3]]))
    prepared = prepare(compile_spec(load_spec(tiny.write(tmp_path, SPEC), changes).spec))
    told = " ".join(notices(prepared))
    assert "no `labels:`; found in its training words: `B-LOC`, `B-ODD`, `I-LOC`, `O`" in told
    assert "one training word alone of `B-ODD`" in told and "validated with no word of `B-ODD`" in told
    assert "1 without tags (facts.jsonl:3" in told
    assert "1 tag of facts go on with an entity that did not begin" in told
    assert "reads the beginnings alone of 1 documents of facts" in told
    assert prepared.measured.labels == {"told": ("B-LOC", "B-ODD", "I-LOC", "O")}


def test_numbers_have_the_names_that_the_source_says(tmp_path: Any) -> None:
    records(tmp_path, numbers=True)
    names = "data.sources.facts.tag_names=[O, B-LOC, I-LOC]"
    prepared = prepare(compile_spec(load_spec(tiny.write(tmp_path, SPEC), [names]).spec))
    assert prepared.measured.labels == {"told": ("B-LOC", "I-LOC", "O")}
    prepared = prepare(compile_spec(load_spec(tiny.write(tmp_path, SPEC)).spec))
    assert prepared.measured.labels == {"told": ("0", "1", "2")}


TAGS_FIELD = 'data.sources.facts.tags="{tags}"'
CONLL = """-DOCSTART- -X- -X- O

in IN B-PP O
Rome NNP B-NP B-LOC

it PRP B-NP O
"""


def test_files_of_conll(tmp_path: Any) -> None:
    """As CoNLL-2003 has them: the tag in the last of some columns."""
    whole = CONLL + "".join(f"\nsome{i} X O\nplace Y B-LOC\n" for i in range(30))
    (tmp_path / "facts.conll").write_text(whole)
    spec = load_spec(tiny.write(tmp_path, SPEC.replace("facts.jsonl", "facts.conll")), [TAGS_FIELD]).spec
    prepared = prepare(compile_spec(spec))
    assert prepared.measured.labels == {"told": ("B-LOC", "O")}
    sides = prepared.asked("told")[1][0]
    assert sum(sides[side]["documents"] for side in ("train", "validation")) == 32
    counts = {labels[0]: n for side in ("train", "validation") for labels, n in sides[side]["labels"]}
    assert {*counts} == {"O", "B-LOC"}
    (tmp_path / "facts.conll").write_text(whole + "alone\n")
    with pytest.raises(DataError, match=r"facts.conll:97:1.*a word without a tag"):
        prepare(compile_spec(spec))
