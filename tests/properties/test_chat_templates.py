"""Chat templates: training dialogues, prompts and the checks of both are one form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import phase_kinds
import pytest
import tiny
from chat_templates import OWN
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.compiler import compile_spec, complete
from llmspec.compiler.checks import MARKED, NUMBERED
from llmspec.core.problems import DataError, LlmspecError
from llmspec.data.checks import data_checks
from llmspec.data.prepare import prepare
from llmspec.data.shaping import CODES
from llmspec.data.tokens import encode_dialogues
from llmspec.decoding.prompts import chat_prompt, pieces, text_prompt
from llmspec.parts import templates, tokenizers
from llmspec.parts.templates.base import ChatTemplate, Segment, Turn
from llmspec.parts.tokenizers.byte import ByteCodec
from llmspec.parts.tokenizers.special_tokens import EOS, ROLES, SPECIALS, SpecialTokens
from llmspec.runs.run import RunFolder
from llmspec.spec import load_spec
from llmspec.training.prompts import prompts_of


class Spoken(ChatTemplate):
    """`User: text` in plain text, a line a turn: no special token but the one that begins a document."""

    kind: Literal["spoken"] = "spoken"

    def render(self, specials: SpecialTokens, turns: Iterable[Turn]) -> Iterator[Segment]:
        yield Segment(specials.need("bos"))
        for role, content in turns:
            yield Segment(f"{role.title()}: ")
            yield from (Segment(piece, role) for piece in content)
            yield Segment("\n", role)

    def answer(self, specials: SpecialTokens) -> tuple[Segment, ...]:
        return (Segment("Assistant: "),)


TEMPLATES = {**{kind: part() for kind, part in templates.TABLE.items() if kind != "jinja"}, "spoken": Spoken()}
TEMPLATES["jinja"] = templates.TABLE["jinja"](template=OWN)
SHORT = templates.TABLE["jinja"](
    template="{% for m in messages %}{{ m['role'][0] + m['content'] + '.' }}{% endfor %}"
    "{% if add_generation_prompt %}a{% endif %}"
)
MARKERS = ("<|sum|>",)
CODECS = {
    "byte": tokenizers.TABLE["byte"](markers=MARKERS).train(()),
    "bpe": tokenizers.TABLE["bpe"](markers=MARKERS, vocab=277).train(["User: the cat and the hat\n" * 9]),
}
words = st.lists(st.sampled_from([*SPECIALS, *MARKERS, "User: ", "a", "é", " ", "\n"]), min_size=1, max_size=4)
dialogues = st.lists(st.tuples(st.sampled_from(ROLES), words.map("".join)), min_size=1, max_size=5)


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@given(turns=dialogues)
@settings(deadline=None, max_examples=50)
def test_a_prompt_is_a_training_dialogue_cut_before_an_answer(
    template: ChatTemplate, codec: ByteCodec, turns: list
) -> None:
    shaped = [Turn(role, pieces(codec, text, MARKERS)) for role, text in turns]
    data = encode_dialogues(codec, template, [shaped])
    tokens, said_by = data.tokens.tolist(), data.role_of_token.tolist()  # type: ignore[union-attr]
    for i, (role, _) in enumerate(turns):
        if role == "assistant":
            prompt = chat_prompt(codec, template, turns[:i], MARKERS)
            assert tokens[: len(prompt)] == prompt
            assert said_by[len(prompt)] == CODES["assistant"], "the first token of the answer comes next"
    assert chat_prompt(codec, template, turns, MARKERS)[: len(tokens)] == tokens, "a whole dialogue can be answered too"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@given(turns=dialogues)
@settings(deadline=None, max_examples=50)
def test_who_speaks_is_read_back_from_the_tokens_alone(template: ChatTemplate, turns: list) -> None:
    codec = CODECS["byte"]
    data = encode_dialogues(codec, template, [[Turn(role, pieces(codec, text, MARKERS)) for role, text in turns]])
    tokens, said_by = data.tokens.tolist(), data.role_of_token.tolist()  # type: ignore[union-attr]
    found = template.speakers(codec.specials, tokens[:-1])
    if found is not None:
        assert [0 if role is None else CODES[role] for role in found] == said_by[1:]
    first = template.first(codec.specials)
    assert first is None or (tokens[0] == first and first not in tokens[1:])
    assert data.tokens_per_role.tolist() == [[said_by.count(CODES[role]) for role in ROLES]]  # type: ignore[union-attr]
    said = [sum(len(text.replace("<|sum|>", "")) for role, text in turns if role == one) for one in ROLES]
    added = [sum(len("\n") for role, _ in turns if role == one) if template.kind == "spoken" else 0 for one in ROLES]
    assert data.characters.tolist() == [[a + b for a, b in zip(said, added, strict=True)]]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_what_a_template_cannot_say_is_named(template: ChatTemplate) -> None:
    codec = CODECS["byte"]
    with pytest.raises(LlmspecError, match="no role is named `users`") as caught:
        chat_prompt(codec, template, [("users", "hi")])
    assert "user" in caught.value.problems[0].hint
    bare = SpecialTokens.spelled([EOS])
    if template.kind == "role_tokens":
        with pytest.raises(DataError, match="no special token for `turn_end`"):
            list(template.render(bare, [Turn("user", ("hi",))]))


@pytest.mark.parametrize("marker", ["<|mask|>", "<|pad|>"])
def test_a_spec_may_have_markers_of_any_name(marker: str) -> None:
    """Also those that a special token has which it does not ask for."""
    codec = tokenizers.TABLE["byte"](markers=(marker,)).train(())
    asked = chat_prompt(codec, TEMPLATES["role_tokens"], [("user", f"a{marker}b")], (marker,))
    assert codec.specials[marker] in asked and codec.decode(asked) == "ab"
    masked = tokenizers.TABLE["byte"](special_tokens=("mask", "pad")).train(())
    assert masked.specials[marker] not in chat_prompt(masked, TEMPLATES["role_tokens"], [("user", f"a{marker}b")])


def test_a_tokenizer_without_a_first_token_begins_a_text_with_the_text() -> None:
    codec = tokenizers.TABLE["byte"]().train(())
    codec.specials = SpecialTokens(ids={"<s>": 0})
    assert text_prompt(codec, "ab") == codec.encode(["ab"])[0]


@pytest.mark.parametrize("text", ["ab", ""])
def test_a_text_that_is_read_whole_stands_where_its_tokenizer_puts_it(text: str) -> None:
    """Between the tokens of its frame, which another text has not; where there is no frame, it is as any text."""
    codec = tokenizers.TABLE["byte"]().train(())
    codec.specials = SpecialTokens(ids={"<s>": 0, "</s>": 1}, bos=0, eos=1, after=(1,))
    ids = codec.encode([text])[0]
    assert text_prompt(codec, text, whole=True) == [*ids, 1]
    assert text_prompt(codec, text) == [0, *ids]
    codec.specials = SpecialTokens(ids={"<s>": 0, "</s>": 1}, bos=0, eos=1)
    assert text_prompt(codec, text, whole=True) == [0, *ids]


def test_another_template_reaches_tokens_prompts_and_checks(tmp_path: Path) -> None:
    """And the phases of plain text stay what they were."""
    plan = compile_spec(load_spec(tiny.write(tmp_path), ["model.context=64"]).spec)
    other = plan.model_copy(update={"chat_template": Spoken()})
    one, two = prepare(plan), prepare(other)
    for phase in plan.phases:
        same = one.fingerprint(phase.name) == two.fingerprint(phase.name)
        assert same != phase.phase.dialogues, phase.name
        keys = {complete(x, y.measured).phase(phase.name).key for x, y in ((plan, one), (other, two))}
        assert len(keys) == 1 + phase.phase.dialogues
    chat = next(p for p in other.phases if p.phase.dialogues)

    def begun(*prompts: str) -> list[str]:
        phase = chat.model_copy(update={"phase": chat.phase.model_copy(update={"prompts": prompts})})
        return [two.codec.decode(p.tokens) for p in prompts_of(other, phase, two)]

    assert begun("hi") == ["User: hi\nAssistant: "]
    assert begun() == ["User: nine\nAssistant: ", "User: ten\nAssistant: "]
    found = {check.name: check for check in data_checks(two)}
    assert found[MARKED].holds is None and "do not tell who speaks" in found[MARKED].evidence
    assert NUMBERED not in found or found[NUMBERED].holds is None
    assert {p.holds for p in data_checks(one)} == {True}


@pytest.mark.parametrize("name", phase_kinds.KINDS)
def test_what_reads_dialogues_follows_the_template_and_answers_in_it(name: str, tmp_path: Path) -> None:
    """Of every kind of phase: its tokens, its key before they are known, and how its model is asked."""
    text, sets = phase_kinds.spec_of(name)
    spec = load_spec(
        tiny.write(tmp_path, text), sets if any("context=" in s for s in sets) else [*sets, "model.context=64"]
    ).spec
    plans = [compile_spec(found) for found in (spec, spec.model_copy(update={"chat_template": SHORT}))]
    one, two = map(prepare, plans)
    told = set()
    for phase in plans[0].phases:
        follows = one.fingerprint(phase.name) != two.fingerprint(phase.name)
        assert follows == phase.phase.templated == RunFolder(tmp_path).chat(plans[0], phase.name), phase.name
        told |= {phase.name} if follows or phase.phase.parent in told else set()
        keys = {plan.phase(phase.name).key for plan in plans}
        assert len(keys) == 1 + (phase.name in told), phase.name
