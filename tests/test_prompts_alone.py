"""Prompts without answers: from every form of records they become what a person would ask with, and phases that draw
answers read them; what learns answers refuses them by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import phase_kinds
import pytest
import tiny

from llmspec.compiler import compile_spec, complete
from llmspec.core.problems import LlmspecError
from llmspec.data.notices import notices
from llmspec.data.prepare import PreparedData, prepare
from llmspec.data.prompts import PromptLayout
from llmspec.decoding.prompts import prompt_tokens
from llmspec.explain.held_out_prompts import best_of, opened
from llmspec.parts.templates.base import Turn, encode
from llmspec.spec import load_spec
from llmspec.training.prompts import rehearse

ASKED = ["What is it?", "And {this}?", "one", "two three"]
JINJA = (
    "{{ '<|end|>' }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end_of_turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
FORMS: dict[str, tuple[str, Any]] = {
    "prompt": ("asks.jsonl", lambda text: {"prompt": text, "kind": "x"}),
    "prompt as messages": ("asks.jsonl", lambda text: {"prompt": [{"role": "user", "content": text}], "kind": "x"}),
    "messages": ("asks.jsonl", lambda text: {"messages": [{"role": "user", "content": text}], "kind": "x"}),
    "ShareGPT": ("asks.jsonl", lambda text: {"conversations": [{"from": "human", "value": text}], "kind": "x"}),
    "a preference": ("asks.jsonl", lambda text: {"prompt": text, "chosen": "a", "rejected": "b", "kind": "x"}),
    "template": ('asks.jsonl, prompt: "{q}"', lambda text: {"q": text, "kind": "x"}),
    "dialogue": ('asks.jsonl, dialogue: {user: "{q}"}', lambda text: {"q": text, "kind": "x"}),
    "lines": ('asks.txt, prompt: "{text}"', None),
}


def made(tmp_path: Path, source: str, records: list[Any], kind: str = "grpo", *sets: str) -> PreparedData:
    """The data of a phase that reads a file of records, or of lines."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (tmp_path / source.partition(",")[0]).write_text("\n".join(lines) + "\n")
    text, own = phase_kinds.spec_of(kind)
    text = text.replace("data:\n  sources:\n", f"data:\n  sources:\n    asks: {{kind: files, path: {source}}}\n")
    more = ("phases.phase.mixture={asks: 100%}", "model.context=64", "data.sources.asks.max_epochs=500", *sets)
    return prepare(compile_spec(load_spec(tiny.write(tmp_path, text), [*own, *more]).spec))


def prompts(prepared: PreparedData) -> dict[str, Any]:
    """By its tokens as text: each prompt that the phase reads."""
    layout = prepared.stream("phase").layout("asks")
    assert isinstance(layout, PromptLayout)
    found = [layout.asked(block) for block in range(len(layout.kept))]
    return {prepared.codec.decode(one.ids, specials=True): one for one in found}


@pytest.mark.parametrize(
    ("form", "template"), [*((form, "role_tokens") for form in FORMS), ("prompt", "jinja"), ("messages", "jinja")]
)
def test_a_prompt_is_read_as_it_would_be_asked(tmp_path: Path, form: str, template: str) -> None:
    source, record = FORMS[form]
    sets = (f"chat_template={{kind: jinja, template: {json.dumps(JINJA)}}}",) if template == "jinja" else ()
    prepared = made(tmp_path, source, [record(text) if record else text for text in ASKED], "grpo", *sets)
    wanted = {}
    for text in ASKED:
        ids = prompt_tokens(prepared.codec, prepared.template, text, True, (), False)
        wanted[prepared.codec.decode(ids, specials=True)] = ids
    found = prompts(prepared)
    assert {spelled: one.ids for spelled, one in found.items()} == wanted
    best = "a" if form == "a preference" else ""
    assert all(prepared.codec.decode(one.answer) == best for one in found.values())
    assert all((len(one.answer) == 1) == (not best) for one in found.values())
    records = prepared.records("phase", "asks", "train")
    assert all("answer" not in fields for fields in records)
    assert all(fields["kind"] == "x" for fields in records if record)
    said = [decision.value for decision in prepared.measured.decisions]
    known = form in ("prompt", "prompt as messages", "messages", "ShareGPT")
    assert any("prompts without answers" in value for value in said) == known


def test_prompts_and_dialogues_may_stand_in_one_source(tmp_path: Path) -> None:
    """What was said before the last question is part of the prompt; an answer behind it is its record's."""
    said = [("user", "one"), ("assistant", "uno"), ("user", "two")]
    records = [
        {"messages": [{"role": role, "content": text} for role, text in turns]}
        for turns in (said, [*said, ("assistant", "dos")], said[:1])
    ]
    prepared = made(tmp_path, "asks.jsonl", records)
    layout = prepared.stream("phase").layout("asks")
    assert isinstance(layout, PromptLayout)
    whole = [Turn(role, (text,)) for role, text in said]  # type: ignore[arg-type]
    codec, specials = prepared.codec, prepared.codec.specials
    wanted = [tuple(encode(codec, prepared.template.prompt(specials, turns))) for turns in (whole, whole, whole[:1])]
    found = [layout.asked(block) for block in range(3)]
    assert sorted(tuple(one.ids) for one in found) == sorted(wanted)
    assert layout.unanswered(codec) == {0, 2}
    assert sorted(codec.decode(one.answer) for one in found) == ["", "", "dos"]


@pytest.mark.parametrize(("count", "epochs", "size", "per"), [(6, 2, 4, 1), (5, 0.5, 2, 3), (7, 3.5, 3, 2)])
def test_epochs_are_of_prompts(tmp_path: Path, count: int, epochs: float, size: int, per: int) -> None:
    """As many rollouts as hold every prompt so often, and the optimizer steps that they serve."""
    budget = f"phases.phase.budget={epochs} epochs of asks"
    held = (f"phases.phase.prompts_per_rollout={size}", f"phases.phase.epochs_per_rollout={per}", budget)
    records = [{"prompt": "x" * (1 + i)} for i in range(count)]
    prepared = made(tmp_path, "asks.jsonl", records, "grpo", *held, "phases.phase.micro_batch_size=16")
    planned = complete(prepared._plan, prepared.measured).phase("phase")
    rollouts = -(-math.ceil(epochs * count) // size)
    assert prepared.stream("phase").steps == rollouts
    assert planned.steps == rollouts * per * 2  # mini_batches
    if epochs == int(epochs) and int(epochs) * count % size == 0:
        read = [one for step in range(rollouts) for one in prepared.stream("phase").blocks(step)]
        assert sorted(block % count for _, block in read) == sorted(list(range(count)) * int(epochs))


@pytest.mark.parametrize("context", [24, 40, 64])
def test_what_was_written_takes_no_room_from_what_is_drawn(tmp_path: Path, context: int) -> None:
    """A prompt is read if an answer of `max_tokens` has room behind it, however long the answer of its record is; what
    is planned is what is read."""
    written = [(prompt, answer) for prompt in (3, 9, 20, 36) for answer in (1, 12, 30, 80)]
    records = [{"prompt": "x" * prompt, "completion": "y" * answer} for prompt, answer in written]
    held = (f"model.context={context}", "phases.phase.micro_batch_size=8", "data.sources.asks.max_dropped=95%")
    prepared = made(tmp_path, "asks.jsonl", records, "grpo", *held)
    stream, codec = prepared.stream("phase"), prepared.codec
    layout = stream.layout("asks")
    assert isinstance(layout, PromptLayout)
    found = [layout.asked(block) for block in range(len(layout.kept))]
    most = most_drawn(prepared)
    wanted = [
        (prompt, answer)
        for prompt, answer in written
        if len(prompt_tokens(codec, prepared.template, "x" * prompt, True)) + most <= context
    ]
    assert sorted((codec.decode(one.ids).count("x"), codec.decode(one.answer).count("y")) for one in found) == wanted
    counts = layout.counts(len(found))  # an epoch, by two prompts a rollout
    batches = [stream.batch(step) for step in range(len(found) // 2)]
    assert counts.tokens_read == sum(int(batch.filled.sum()) for batch in batches)
    assert counts.tokens_supervised == sum(int((batch.weights > 0).sum()) for batch in batches)


def most_drawn(prepared: PreparedData) -> int:
    """Tokens of a drawn answer, at most."""
    phase: Any = prepared._plan.phase("phase").phase
    return int(phase.max_tokens)


@pytest.mark.parametrize("kind", ["grpo", "ppo", "best_of_n"])
def test_every_phase_that_draws_takes_them(tmp_path: Path, kind: str) -> None:
    prepared = made(tmp_path, "asks.jsonl", [{"prompt": text} for text in ASKED], kind)
    assert len(prompts(prepared)) == len(ASKED)


@pytest.mark.parametrize("kind", ["sft", "seq2seq", "contrastive", "dpo", "orpo", "kto", "reward"])
def test_what_learns_answers_refuses_a_prompt_alone(tmp_path: Path, kind: str) -> None:
    with pytest.raises(LlmspecError) as caught:
        made(tmp_path, 'asks.jsonl, prompt: "{q}"', [{"q": text} for text in ASKED], kind)
    found = [p for p in caught.value.problems if "asks has `prompt:` alone" in p.message]
    assert len(found) == 1 and found[0].path == ("phases", "phase", "mixture", "asks")
    assert "data.sources.asks" in found[0].hint


@pytest.mark.parametrize(
    ("record", "hint"),
    [({"prompt": "a"}, "once the records have them"), ({"prompt": "a", "solution": "b"}, 'assistant: "{solution}"')],
)
def test_what_learns_answers_refuses_recognised_prompts(tmp_path: Path, record: Any, hint: str) -> None:
    with pytest.raises(LlmspecError) as caught:
        made(tmp_path, "asks.jsonl", [record, record], "sft")
    (problem,) = caught.value.problems
    assert "phase learns answers, and the records of asks are prompts without any" in problem.message
    assert hint in problem.hint and 'text: "{prompt}"' in problem.hint


def test_a_prompt_is_plain_text_where_text_is_read(tmp_path: Path) -> None:
    prepared = made(tmp_path, 'asks.jsonl, prompt: "Say {q}."', [{"q": "it" * 40}], "pretrain")
    assert prepared.readings["asks"].texts(prepared.readings["asks"].train) == [("Say " + "it" * 40 + ".",)]


@pytest.mark.parametrize("other", ['messages: "m"', 'dialogue: {user: "{q}"}', "template: continue"])
def test_what_is_asked_is_said_once(tmp_path: Path, other: str) -> None:
    with pytest.raises(LlmspecError, match="both say what is asked; keep one"):
        made(tmp_path, f'asks.jsonl, prompt: "{{q}}", {other}', [{"q": "a"}])


def test_rewards_of_a_right_answer_need_one(tmp_path: Path) -> None:
    right = "phases.phase.reward={kind: exact_match}"
    records = [{"prompt": "a", "answer": "b"}, {"prompt": "c"}]
    fits = ("phases.phase.micro_batch_size=4",)
    prepared = made(tmp_path, "asks.jsonl", records, "grpo", right, *fits)
    with pytest.raises(LlmspecError, match="the reward reads `answer`, which record 2 of asks has not") as caught:
        rehearse(complete(prepared._plan, prepared.measured), prepared)
    assert 'reference: "{FIELD}"' in caught.value.problems[0].hint
    prepared = made(tmp_path, "asks.jsonl", records[:1], "grpo", right, *fits)
    rehearse(complete(prepared._plan, prepared.measured), prepared)


def test_budgets_that_say_nothing_of_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LlmspecError, match="`2 epochs of SOURCE`"):
        made(tmp_path, "asks.jsonl", [{"prompt": "a"}], "grpo", "phases.phase.budget=2M tokens")


def test_dialogues_that_start_with_the_assistant_are_left_out_and_named(tmp_path: Path) -> None:
    turns = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "one"}]
    records = [
        {"messages": turns},
        {"messages": turns[1:]},
        {"messages": [{"role": "system", "content": "Be"}, turns[1]]},
    ]
    prepared = made(tmp_path, "asks.jsonl, max_dropped: 40%", records)
    (lost,) = [loss for loss in prepared.losses if loss.phase == "phase"]
    assert lost.dropped.counts == {"that start with the assistant": 1} and len(prompts(prepared)) == 2
    with pytest.raises(LlmspecError, match="that start with the assistant") as caught:
        made(tmp_path, "asks.jsonl", records[:1])
    assert "begin those dialogues with a turn of user" in caught.value.problems[0].hint


@pytest.mark.parametrize("train_on", ["[assistant]", "[assistant, last_turn]", "[user]"])
@pytest.mark.parametrize("system", [False, True])
def test_answers_to_nobody_that_are_learned_are_told(tmp_path: Path, train_on: str, system: bool) -> None:
    before = [{"role": "system", "content": "Be"}] * system
    turns = [{"role": role, "content": "said"} for role in ("assistant", "user", "assistant")]
    records = [{"messages": [*before, *turns[i % 3 == 0 :]]} for i in range(9)]
    prepared = made(tmp_path, "asks.jsonl", records, "sft", f"phases.phase.train_on={train_on}")
    told = [said for said in notices(prepared) if "start with the assistant" in said]
    assert len(told) == (train_on == "[assistant]")
    assert all(said.startswith("6 training dialogues of asks start with the assistant") for said in told)


def test_plain_text_answers_nobody_and_nothing_is_said(tmp_path: Path) -> None:
    prepared = made(tmp_path, 'asks.jsonl, text: "{q}"', [{"q": "it" * 40}], "sft")
    assert not [said for said in notices(prepared) if "assistant" in said]


@pytest.mark.parametrize("kind", ["dpo", "reward", "kto"])
def test_held_out_comparisons_are_prompts_with_their_best_answer(tmp_path: Path, kind: str) -> None:
    pairs = [{"prompt": f"what {i}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    thumbs = [{"prompt": f"what {i}", "completion": f"yes {i}", "label": i % 3 > 0} for i in range(20)]
    found = made(tmp_path, "asks.jsonl, validation: tail 20%", thumbs if kind == "kto" else pairs, kind)
    ((_, train, held),) = (sides for sides in found.sides()["preference"] if sides[0] == "asks")
    told = [record for side in (train, held) for _, record in opened(found.codec, best_of(side))]
    wanted = [{"prompt": f"what {i}", "answer": f"yes {i}"} for i in range(20) if kind != "kto" or i % 3]
    assert len(held.lengths) and sorted(told, key=str) == sorted(wanted, key=str)


PAIR = {"prompt": "one", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("record", "keys", "said", "hint"),
    [
        ({**PAIR, "rejected": "a"}, "", "whose answers are equal", "answers that differ"),
        ({"prompt": "one", "answers": ["a", "b"], "scores": [1, 1]}, "", "all tied", "scores that differ"),
        ({"prompt": "one", "answers": ["a"], "scores": [1]}, "", "with one answer alone", "`kind: kto`"),
        ({"prompt": "one", "answers": ["a", "b"], "scores": [1]}, "", "without a score", "each answer a number"),
        (PAIR, 'prompt: "{prompt}", completion: "{chosen}", good: "{rejected}"', "neither good nor bad", "`good_is:`"),
        (
            PAIR,
            'prompt: "{prompt}", answers: chosen, scores: [helpful, correct]',
            "need weights",
            "helpful: 1, correct: 1",
        ),
    ],
)
def test_comparisons_of_which_nothing_is_left_say_what_helps(
    tmp_path: Path, record: Any, keys: str, said: str, hint: str
) -> None:
    with pytest.raises(LlmspecError, match=said) as caught:
        made(tmp_path, f"asks.jsonl, {keys}", [record, record], "dpo")
    assert hint in str(caught.value)
