"""Answers that are compared: what records say of them, which stand in a row together, and what of them counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.compiler import compile_spec
from llmspec.core.problems import DataError, RunError
from llmspec.data.compared import ONE_ANSWER, ComparedAsking, ComparedLayout
from llmspec.data.layout import Batch, blank
from llmspec.data.notices import notices
from llmspec.data.preferences import (
    ASSISTANT_FIRST,
    BAD,
    EQUAL,
    ONE_SIDED,
    PROMPTS_DIFFER,
    TIED,
    UNJUDGED,
    UNSCORED,
    Compared,
    best_dialogue,
    comparison_of,
)
from llmspec.data.prepare import prepare
from llmspec.data.shaping import EMPTY, NOTHING_LEARNED, TOO_LONG, UNREADABLE, Dropped
from llmspec.data.tokens import TokenSet, encode_comparisons
from llmspec.parts import sources
from llmspec.parts.sources import Document
from llmspec.parts.sources.preferences import COMPARED
from llmspec.parts.templates import TABLE as TEMPLATES
from llmspec.parts.templates.base import Turn, encode
from llmspec.parts.tokenizers import TABLE as TOKENIZERS
from llmspec.parts.tokenizers.special_tokens import TURN_END
from llmspec.spec import load_spec

TEMPLATE = TEMPLATES["role_tokens"]()
CODEC = TOKENIZERS["byte"]().train(())
EOT = CODEC.specials[TURN_END]
quick = settings(deadline=None, max_examples=60)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def found(record: dict[str, Any], **keys: Any) -> Compared | Dropped | None:
    source = sources.TABLE["inline"].model_validate({"kind": "inline", "records": (record,), **keys})
    return comparison_of(source, Document("f", record=record))


def spelled(compared: Compared | Dropped | None) -> Any:
    """(turns of the prompt, answers, ranks), or the reason."""
    if not isinstance(compared, Compared):
        return compared and compared.reason
    prompt = [(turn.role, "".join(turn.content)) for turn in compared.prompt]
    return prompt, ["".join(answer) for answer in compared.answers], list(compared.ranks)


def rated(**scores: float) -> list[dict[str, Any]]:
    """Completions as UltraFeedback has them; over all they are worth the opposite, which counts less."""
    said = {"model": "m", "annotations": {}, "critique": "so so"}
    return [{**said, "response": r, "overall_score": -s, "fine-grained_score": s} for r, s in scores.items()]


ASKED = [("user", "q")]
PAIR = {"prompt": "{p}", "chosen": "{c}", "rejected": "{r}"}
LIST = {"prompt": "{p}", "answers": "a", "scores": "s"}
THUMB = {"prompt": "{p}", "completion": "{c}", "good": "{g}"}
DIALOGUE = [user("q"), said("x"), user("r")]


def test_recognised_preferences_are_dialogues_with_the_best_answer(tmp_path: Path) -> None:
    """So that one set of Hugging Face serves SFT, the phases that compare, and those that draw answers."""
    records = [{"prompt": f"what {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(20)]
    found = read(tmp_path, "grpo", records)
    assert found.codec.decode(found.opened("before", "facts").tokens).count("yes") > 10
    assert {r["chosen"] for r in found.records("phase", "facts", "train")} <= {r["chosen"] for r in records}
    said = [decision.value for decision in found.measured.decisions]
    assert "dialogues with the best answer, of the preference format" in said


def read(folder: Path, kind: str, records: list[dict[str, Any]]) -> Any:
    """The data of a phase of that kind, all whose records these are."""
    text, own = phase_kinds.spec_of(kind)
    unsaid = [f"data.sources.facts.{key}=null" for key in ("text", "dialogue", *COMPARED)]
    sets = [*own, *unsaid, f"data.sources.facts.records={json.dumps(records)}", "model.context=48"]
    return prepare(compile_spec(load_spec(tiny.write(folder, text), sets).spec))


@pytest.mark.parametrize("good", [0, 10, 20])
def test_answers_of_one_side_alone_are_told(tmp_path: Path, good: int) -> None:
    records = [{"prompt": f"q{i}", "completion": "y", "label": i < good} for i in range(20)]
    told = [said for said in notices(read(tmp_path, "kto", records)) if "answers that phase reads" in said]
    assert len(told) == (good in (0, 20))
    assert all(f"are {'good' if good else 'bad'}, and none is {'bad' if good else 'good'}" in said for said in told)


def test_where_the_answers_are_that_teach_nothing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, "dpo", [{"prompt": "q", "chosen": f"y{i}", "rejected": f"y{i}"} for i in range(20)])
    problem = next(found for found in refused.value.problems if found.path == ("phases", "phase", "mixture", "facts"))
    assert problem.message.startswith("nothing of facts can be trained on: of its documents, ")
    assert problem.message.endswith(" whose answers are equal (records:1; records:2; ...)")


@pytest.mark.parametrize(
    ("keys", "record", "wanted"),
    [
        ({}, {"prompt": "q", "chosen": "y", "rejected": "n"}, (ASKED, ["y", "n"], [0, 1])),
        ({}, {"messages": [user("q")], "chosen": said("y"), "rejected": said("n")}, (ASKED, ["y", "n"], [0, 1])),
        ({}, {"question": "q", "chosen": "y", "rejected": "n"}, (ASKED, ["y", "n"], [0, 1])),
        ({}, {"instruction": "q", "chosen": "y", "rejected": "n"}, (ASKED, ["y", "n"], [0, 1])),
        ({}, {"prompt": [user("q")], "chosen": [said("y")], "rejected": [said("n")]}, (ASKED, ["y", "n"], [0, 1])),
        (
            {},
            {"prompt": "q", "chosen": [user("q"), said("y")], "rejected": [user("q"), said("n")]},
            (ASKED, ["y", "n"], [0, 1]),
        ),
        (
            {},
            {"chosen": [*DIALOGUE, said("y")], "rejected": [*DIALOGUE, said("n")]},
            ([("user", "q"), ("assistant", "x"), ("user", "r")], ["y", "n"], [0, 1]),
        ),
        (
            {},
            {"chosen": "\n\nHuman: q\n\nAssistant: y", "rejected": "\n\nHuman: q\n\nAssistant: n"},
            (ASKED, ["y", "n"], [0, 1]),
        ),
        ({}, {"chosen": [user("a"), said("y")], "rejected": [user("b"), said("n")]}, PROMPTS_DIFFER),
        ({}, {"chosen": "y", "rejected": "n"}, EMPTY),
        ({}, {"prompt": "q", "completion": "y", "label": True}, (ASKED, ["y"], [0])),
        ({}, {"prompt": "q", "completion": [said("y")], "label": 0}, (ASKED, ["y"], [1])),
        ({}, {"prompt": "q", "completion": "y", "label": "so so"}, UNJUDGED),
        (
            {},
            {"line": 1, "prompt": "q", "answers": ["a", "b", "c"], "scores": [1.0, 3.0, 1.0], "by": "person"},
            (ASKED, ["b", "a", "c"], [0, 1, 1]),
        ),
        ({}, {"messages": [user("q")], "answers": ["a", "b"], "scores": [1, 0]}, (ASKED, ["a", "b"], [0, 1])),
        (
            {},
            {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 2},
            (ASKED, ["b", "a"], [0, 1]),
        ),
        (
            {},
            {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -1},
            (ASKED, ["a", "b"], [0, 1]),
        ),
        ({}, {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": 0}, TIED),
        ({}, {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": None}, UNSCORED),
        ({}, {"instruction": "q", "completions": rated(a=3.5, b=4.25, c=1.0)}, (ASKED, ["b", "a", "c"], [0, 1, 2])),
        ({}, {"instruction": "q", "completions": rated(a=3.5, b=float("nan"))}, UNSCORED),
        ({}, {"instruction": "q", "completions": rated(a=3.5)}, ONE_SIDED),
        (
            {},
            {"instruction": "q", "completions": rated(a=1.0, y=2.0), "chosen": "y", "rejected": "n"},
            (ASKED, ["y", "n"], [0, 1]),
        ),
        ({}, {"question": "q", "answer": "a"}, None),
        (PAIR, {"p": "q", "c": "y", "r": "n"}, (ASKED, ["y", "n"], [0, 1])),
        (PAIR, {"p": "q", "c": "y", "r": "y"}, EQUAL),
        (PAIR, {"p": "q", "c": "y", "r": " y\n"}, EQUAL),
        (
            {},
            {"system": "s", "chosen": [user("q"), said("y")], "rejected": [user("q"), said("n")]},
            ([("system", "s"), *ASKED], ["y", "n"], [0, 1]),
        ),
        (PAIR, {"p": "q", "c": "y", "r": ""}, EMPTY),
        (PAIR, {"p": "", "c": "y", "r": "n"}, EMPTY),
        (
            {**PAIR, "rejected": ("{r}", "worse {r}")},
            {"p": "q", "c": "y", "r": "n"},
            (ASKED, ["y", "n", "worse n"], [0, 1, 2]),
        ),
        ({**PAIR, "prompt": None, "messages": "p"}, {"p": [said("q")], "c": "y", "r": "n"}, ASSISTANT_FIRST),
        ({**PAIR, "prompt": None, "messages": "p"}, {"p": [user("")], "c": "y", "r": "n"}, EMPTY),
        ({**PAIR, "rejected": None, "rejected_from": "other_records"}, {"p": "q", "c": "y"}, (ASKED, ["y"], [0])),
        (LIST, {"p": "q", "a": ["x", "y"], "s": [1, 1]}, TIED),
        (LIST, {"p": "q", "a": ["x"], "s": [1]}, ONE_SIDED),
        (LIST, {"p": "q", "a": ["x", "y"], "s": [1]}, UNSCORED),
        (LIST, {"p": "q", "a": ["x", "y"], "s": [1, float("nan")]}, UNSCORED),
        (LIST, {"p": "q", "a": ["x", "y"], "s": ["1", "2.5"]}, (ASKED, ["y", "x"], [0, 1])),
        (LIST, {"p": "q", "a": ["x", "y"], "s": ["1", "N/A"]}, UNSCORED),
        (LIST, {"p": "q", "a": "x", "s": [1]}, UNREADABLE),
        (LIST, {"p": "q", "a": ["x", "y", "x"], "s": [1, 2, 3]}, (ASKED, ["x", "y"], [0, 1])),
        (
            {**LIST, "scores": {"s": 1, "t": -2}},
            {"p": "q", "a": ["x", "y", "z"], "s": [5, 4, 1], "t": [2, 0, 0]},
            (ASKED, ["y", "x", "z"], [0, 1, 1]),
        ),
        # 0.1 · 7 and 0.7 · 1 are the same on paper, and not in floating point.
        ({**LIST, "scores": {"s": 0.1, "t": 0.7}}, {"p": "q", "a": ["x", "y"], "s": [7, 0], "t": [0, 1]}, TIED),
        (THUMB, {"p": "q", "c": "y", "g": "yes"}, (ASKED, ["y"], [0])),
        (THUMB, {"p": "q", "c": "y", "g": False}, (ASKED, ["y"], [1])),
        (THUMB, {"p": "q", "c": "y", "g": None}, UNJUDGED),
        ({**THUMB, "good_is": "fresh"}, {"p": "q", "c": "y", "g": "Fresh"}, (ASKED, ["y"], [0])),
        ({**THUMB, "good_is": ("fresh", "new")}, {"p": "q", "c": "y", "g": "yes"}, (ASKED, ["y"], [1])),
        ({**THUMB, "good_is": "fresh"}, {"p": "q", "c": "y", "g": " "}, UNJUDGED),
        ({**THUMB, "good_is": "fresh", "bad_is": "rotten"}, {"p": "q", "c": "y", "g": "rotten"}, (ASKED, ["y"], [1])),
        ({**THUMB, "good_is": "fresh", "bad_is": "rotten"}, {"p": "q", "c": "y", "g": "plot"}, UNJUDGED),
    ],
)
def test_what_a_record_compares(keys: dict[str, Any], record: dict[str, Any], wanted: Any) -> None:
    assert spelled(found(record, **{k: v for k, v in keys.items() if v is not None})) == wanted


def test_the_best_answer_is_a_dialogue_and_a_bad_one_is_none() -> None:
    best = best_dialogue(found({"p": "q", "c": "y", "r": "n"}, **PAIR) or Dropped(""))
    assert best == [Turn("user", ("q",)), Turn("assistant", ("y",))]
    assert best_dialogue(found({"p": "q", "c": "y", "g": 0}, **THUMB) or Dropped("")) == Dropped(BAD)


@pytest.mark.parametrize(
    "keys",
    [
        {"prompt": "{p}", "good": "{g}"},
        {"prompt": "{p}", "chosen": "{c}"},
        {"chosen": "{c}", "rejected": "{r}"},
        {**PAIR, "messages": "m"},
        {**PAIR, "rejected_from": "other_records"},
        {**PAIR, "good": "{g}"},
        {**PAIR, "good_is": "fresh"},
        {**THUMB, "good_is": ()},
        {**THUMB, "bad_is": "rotten"},
        {**THUMB, "good_is": " "},
        {**PAIR, "answers": "a", "scores": "s"},
        {"prompt": "{p}", "answers": "a"},
        {"prompt": "{p}", "completion": "{c}"},
        {**LIST, "scores": {"s": 0}},
        {**LIST, "scores": {}},
        {**PAIR, "group_by": "p"},
        {**LIST, "group_by": "a"},
        {**PAIR, "dialogue": {"user": "{p}"}},
        {**PAIR, "rejected": ()},
        {**PAIR, "rejected": "{"},
    ],
)
def test_half_said_comparisons_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`|template"):
        found({"p": "q"}, **keys)


# -- rows ------------------------------------------------------------------------------------------------------------
letters = st.text("abcd", min_size=1, max_size=9)
records = st.lists(
    st.tuples(letters | st.sampled_from("ab"), st.lists(st.tuples(letters, st.integers(0, 2)), min_size=1, max_size=4)),
    min_size=1,
    max_size=9,
)


def drawn(asked: list[tuple[str, list[tuple[str, int]]]]) -> list[Compared]:
    """Records as `checked` leaves them: the best first, ranks without gaps."""
    made = []
    for prompt, answers in asked:
        ranked = sorted(answers, key=lambda one: one[1])
        steps = sorted({rank for _, rank in ranked})
        ranks = tuple(steps.index(rank) for _, rank in ranked) if len(ranked) > 1 else (min(ranked[0][1], 1),)
        made.append(
            Compared((Turn("user", (prompt,)),), tuple((text,) for text, _ in ranked), ranks, float(len(prompt)))
        )
    return made


def rows(layout: ComparedLayout, how: ComparedAsking, context: int, blocks: list[int]) -> Batch:
    batch = blank(len(blocks), context, EOT)._replace(labels=how.blank(len(blocks)))
    layout.gather(batch, np.arange(len(blocks)), np.array(blocks))
    return batch


def wanted_entries(compared: list[Compared], together: str) -> list[list[tuple[Compared, int, int]]]:
    """By the definitions: (record, answer, target) of what is read together."""
    made = list[list[tuple[Compared, int, int]]]()
    for one in compared:
        n, ranks = len(one.answers), one.ranks
        if together == "pairs":
            made += [[(one, i, 0), (one, j, 1)] for i in range(n) for j in range(i + 1, n) if ranks[i] < ranks[j]]
        elif together == "lists":
            made += [[(one, i, ranks[i]) for i in range(n)]] if len(set(ranks)) > 1 else []
        else:
            made += [[(one, i, int(r == 0))] for i, r in enumerate(ranks) if r == 0 or r == max(1, max(ranks))]
    if together != "thumbs":  # good and bad answers by themselves, to one prompt
        for prompt in dict.fromkeys(one.prompt for one in compared):
            alone = [one for one in compared if one.prompt == prompt and len(one.answers) == 1]
            sides = [[one for one in alone if one.ranks == (rank,)] for rank in (0, 1)]
            both = set.intersection(*({one.answers for one in side} for side in sides))
            good, bad = ([one for one in side if one.answers not in both] for side in sides)
            made += [[(g, 0, 0), (b, 0, 1)] for g, b in zip(good, bad, strict=False)]
    return made


@given(records, st.sampled_from(["pairs", "lists", "thumbs"]), st.booleans(), st.booleans(), st.sampled_from([40, 64]))
@quick
def test_every_entry_is_read_once_an_epoch_in_one_row(
    asked: list[Any], together: Any, truncation: bool, shuffled: bool, context: int
) -> None:
    compared = drawn(asked)
    data = encode_comparisons(CODEC, TEMPLATE, compared)._replace(vocab=CODEC.vocab)
    how = ComparedAsking(together, context - 20, truncation, 6)
    layout = ComparedLayout(data, how, context, ("seed",) if shuffled else None)
    wanted = dict[tuple[Any, ...], int]()
    kept = set[int]()
    for entry in wanted_entries(compared, together):
        parts = []
        for one, i, target in entry:
            whole = encode(CODEC, TEMPLATE.render(CODEC.specials, one.dialogues[i]))
            begin = len(encode(CODEC, TEMPLATE.prompt(CODEC.specials, one.prompt)))
            parts.append((whole, begin, target))
        answers = [len(whole) - begin for whole, begin, _ in parts]
        prompt = parts[0][1]
        while prompt > 0 and (max(answers) + prompt > how.longest or sum(answers) + prompt * len(answers) > context):
            prompt -= 1
        if prompt < 1 or len(parts) > how.documents or (prompt < parts[0][1] and not truncation):
            continue
        kept |= {id(one) for one, _, _ in entry}
        key = tuple((tuple(whole[begin - prompt :]), prompt, target) for whole, begin, target in parts)
        wanted[key] = wanted.get(key, 0) + 1
    assert len(layout.kept) == sum(wanted.values())
    assert sum(layout.dropped.values()) == len(compared) - len(kept)
    assert set(layout.dropped) <= {TOO_LONG, NOTHING_LEARNED, ONE_ANSWER, "neither the best nor the worst answer"}
    supervised, numbers = 0, list[int]()
    for block in range(int(layout.blocks_per_epoch)):
        batch = rows(layout, how, context, [block])
        assert batch.labels is not None and batch.labels.records is not None and batch.labels.margins is not None
        filled, of = int(batch.filled[0]), batch.documents[0]
        count = int(of[:filled].max()) + 1
        entry_of = batch.labels.records[0]
        assert (entry_of[count:] == -1).all() and (batch.labels.weights[0, count:] == 0).all()
        assert (of[filled:] == count).all() and (batch.labels.weights[0, :count] == 1).all()
        supervised += int(batch.weights.sum())
        for number in dict.fromkeys(entry_of[:count].tolist()):
            numbers.append(number)
            parts = []
            for k in np.flatnonzero(entry_of == number).tolist():
                at = np.flatnonzero(of[:filled] == k)
                assert batch.positions[0, at].tolist() == list(range(len(at)))
                ids, counts = batch.tokens[0, at].tolist(), batch.weights[0, at]
                first = int(np.flatnonzero(counts)[0]) + 1
                end = ids.index(EOT, first)
                assert counts.tolist() == [0] * (first - 1) + [1] * (end - first + 1) + [0] * (len(ids) - end)
                assert batch.targets[0, at[:-1]].tolist() == ids[1:]
                parts.append((tuple(ids), first, int(batch.labels.targets[0, k])))
            wanted[tuple(parts)] -= 1
    assert not any(wanted.values())
    assert sorted(numbers) == list(range(len(layout.kept)))
    if not layout.blocks_per_epoch:
        return
    counts = layout.counts(int(layout.blocks_per_epoch))
    assert counts.tokens_supervised == supervised and counts.tokens_read == layout.epoch_tokens


def test_margins_and_weights_stand_beside_their_answers() -> None:
    compared = [Compared((Turn("user", ("q" * n,)),), (("y",), ("n",)), (0, 1), n / 2) for n in (1, 2, 3)]
    data = encode_comparisons(CODEC, TEMPLATE, compared)._replace(
        vocab=CODEC.vocab, weights=np.array([1, 2, 4], np.float32)
    )
    how = ComparedAsking("pairs", 64, False, 8)
    layout = ComparedLayout(data, how, 64, ("seed",))
    seen = dict[float, tuple[float, int]]()
    for block in range(int(layout.blocks_per_epoch)):
        labels = rows(layout, how, 64, [block]).labels
        assert labels is not None and labels.margins is not None and labels.records is not None
        for w, m, r in zip(labels.weights[0], labels.margins[0], labels.records[0], strict=True):
            if r >= 0:
                seen[float(w)] = float(m), int(r)
    assert seen == {1.0: (0.5, 0), 2.0: (1.0, 1), 4.0: (1.5, 2)}


def test_token_files_that_do_not_fit_are_named(tmp_path: Any) -> None:
    data = encode_comparisons(CODEC, TEMPLATE, drawn([("q", [("y", 0), ("n", 1)])]))
    for field in ("tokens", "offsets", "characters", "role_of_token", "tokens_per_role"):
        np.save(tmp_path / f"train.{field}.npy", getattr(data, field))
    for field in ("texts", "text_ends", "ranks", "margins"):
        np.save(tmp_path / f"train.{field}.npy", getattr(data, field))
    assert TokenSet.load(tmp_path, "train").ranks is not None
    np.save(tmp_path / "train.text_ends.npy", np.asarray(data.text_ends) - 1)
    with pytest.raises(RunError, match="damaged"):
        TokenSet.load(tmp_path, "train")
