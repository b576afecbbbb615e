"""Modelfiles for Ollama, read as strictly as it reads them: the same prompts, the same numbers, the same ends."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import chat_templates
import modelfiles
import models
import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from test_gguf_export import model

from llmspec.data.pair_form import PairForm
from llmspec.decoding.language_model import LanguageModel
from llmspec.exchange.gguf_exporting import export_gguf
from llmspec.exchange.modelfile import FORMLESS, ORDER, Modelfile, modelfile, quoted
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.parts.filters import Context
from llmspec.parts.templates import TABLE
from llmspec.parts.templates.base import Turn
from llmspec.parts.tokenizers.special_tokens import ROLES, SpecialTokens
from llmspec.spec.decoding import Decoding

LETTERS = 'ab|<>{}"\\- \n\r\t.`$\u00a0\u200b\u0301é▁語😀\ue000\U000e0001'
words = st.one_of(
    st.text(LETTERS, max_size=12), st.sampled_from(['"""', "{{ .Role }}", "{{", "}}", "{{ end }}", "<|user|>"])
)
spellings = st.lists(st.text(LETTERS, min_size=1, max_size=6), min_size=7, max_size=7, unique=True)
dialogues = st.lists(st.tuples(st.sampled_from(ROLES), words), min_size=1, max_size=5).map(
    lambda turns: [turn for i, turn in enumerate(turns) if i == 0 or turn[0] != turns[i - 1][0]]
)


def specials_of(spelled: list[str]) -> SpecialTokens:
    bos, eos, end, *roles = spelled
    ids = {text: i for i, text in enumerate(spelled)}
    named = {role: ids[text] for role, text in zip(ROLES, roles, strict=True)}
    return SpecialTokens(ids=ids, bos=ids[bos], eos=ids[eos], turn_end=ids[end], roles=named)


USUAL = ["<|begin|>", "<|end|>", "<|end_of_turn|>", "<|system|>", "<|developer|>", "<|user|>", "<|assistant|>"]


def written(
    specials: SpecialTokens, chat: bool = True, pairs: bool = False, template: Any = None, **decoding: Any
) -> Modelfile:
    plan = models.plan().model_copy(
        update={"decoding": Decoding(**decoding), "chat_template": template or TABLE["role_tokens"]()}
    )
    return modelfile("a.gguf", plan, SimpleNamespace(specials=specials), chat, pairs)  # type: ignore[arg-type]


def turns_of(dialogue: list[tuple[Any, str]]) -> list[Turn]:
    return [Turn(role, (text,) if text else ()) for role, text in dialogue]


# -- prompts -----------------------------------------------------------------------------------------------------------
@given(spelled=spellings, dialogue=dialogues)
@example(["a{", '"', "{{", "}", "{", "\u00a0", "-"], [("user", "{{"), ("assistant", '"""\n')])
def test_a_dialogue_is_the_same_text_whatever_its_tokens_are_called(spelled: list[str], dialogue: Any) -> None:
    specials = specials_of(spelled)
    found = modelfiles.read(written(specials).text)
    wanted = modelfiles.spelled(specials, TABLE["role_tokens"]().prompt(specials, turns_of(dialogue)), specials.bos)
    assert modelfiles.rendered(found["template"], dialogue) == wanted and found["from"] == "./a.gguf"


@given(spelled=spellings, dialogue=dialogues)
def test_a_model_of_pairs_is_asked_for_the_last_message_alone(spelled: list[str], dialogue: Any) -> None:
    specials = specials_of(spelled)
    found = modelfiles.read(written(specials, chat=False, pairs=True).text)
    form = PairForm(encoder=False)
    wanted = modelfiles.spelled(specials, [*form.render(specials, turns_of(dialogue[-1:]))], specials.bos)
    assert modelfiles.rendered(found["template"], dialogue) == wanted


def test_a_model_that_only_goes_on_gets_its_prompt_as_it_is() -> None:
    found = modelfiles.read(written(specials_of(USUAL), chat=False).text)
    assert modelfiles.rendered(found["template"], [("user", ' {{ "a" }}\n')]) == ' {{ "a" }}\n'


DEFAULT = (
    "{{ bos_token }}{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|system|>Be {\"kind\"}.\xa0<|end_of_turn|>' }}{% endif %}"
    "{{ '<|' + m.role + '|>' + m['content'] ~ '<|end_of_turn|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""With a system turn that nobody gave, as SmolLM2's."""
TOOLS = (
    "{%- if tools %}{{- messages[0].content | tojson }}{%- endif %}{%- if messages[0].role == 'system' %}"
    "{{- '<|system|>' + messages[0].content + '\n' }}{%- else %}{{- 'You help.\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' or (message.role == 'system' and not loop.first) "
    "or (message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|' + message.role + '|>' + message.content + '\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
PLAIN = TOOLS.replace(" | tojson", "")
"""As Qwen2.5's, whose first system turn stands before the loop."""


@pytest.mark.parametrize("source", [chat_templates.CHATML, chat_templates.OWN, DEFAULT, PLAIN])
@given(dialogue=dialogues)
def test_a_template_in_jinja_writes_the_same_in_go(source: str, dialogue: Any) -> None:
    specials = specials_of([*USUAL[:3], "<|system|>", "<|developer|>", "<|user|>", "<|assistant|>"])
    template = TABLE["jinja"](template=source)
    if source is PLAIN:  # which leaves out what it has no place for
        assume(all(role != "developer" for role, _ in dialogue))
    found = written(specials, template=template)
    wanted = modelfiles.spelled(specials, template.prompt(specials, turns_of(dialogue)), specials.bos)
    assert modelfiles.rendered(modelfiles.read(found.text)["template"], dialogue) == wanted and not found.notices


CHANGED = [
    "{{ m.content | trim }}",
    "{{ m.content.strip() }}",
    "{{ m['content'][:9] }}",
    "{{ m.content if m.content else 'nothing' }}",
    "{% if 'x' in m.content %}x{% endif %}{{ m.content }}",
    "{% set said = m.content %}{{ said | upper }}",
    "{% set x = m %}{{ x.content | upper }}",
    "{% for k, v in m.items() %}{{ v | upper }}{% endfor %}",
    "{{ m.content }}{% if loop.previtem is defined and 'x' in loop.previtem.content %}x{% endif %}",
    "{{ m.content }}{% if loop.index == 4 %}x{% endif %}",
    "{{ m.content }}{% if loop.first or 'x' in loop['previtem']['content'] %}x{% endif %}",
    "{{ m.content }}{% if 'x' in m['con' ~ 'tent'] %}x{% endif %}",
    "{{ m | string }}",
    "{{ m.content }}{{ m.content }}",
    "{{ m.content }}{{ loop.index }}",
    "{{ m.content }}{% if m.role == 'system' %}{{ raise_exception('none of that') }}{% endif %}",
    "{% filter upper %}{{ m.content }}{% endfilter %}",
    "{% set x %}{{ m.content }}{% endset %}{{ x | upper }}",
    "{% macro f(x) %}{{ x | upper }}{% endmacro %}{{ f(m.content) }}",
    "{{ m.content }}{{ strftime_now('%d') }}",
    "{% set ns = namespace(x=m) %}{{ ns.x.content | upper }}",
    "{% set ns = namespace() %}{% set ns.x = m %}{{ ns.x.content | upper }}",
]


@pytest.mark.parametrize("each", CHANGED)
def test_what_changes_words_or_looks_at_them_has_no_form_and_says_so(each: str) -> None:
    source = f"{{% for m in messages %}}<|user|>{each}{{% endfor %}}"
    found = written(specials_of(USUAL), template=TABLE["jinja"](template=source))
    assert "TEMPLATE" not in found.text and found.notices == (FORMLESS,)


@pytest.mark.parametrize("name", ["llama3", "mistral", "gemma", "qwen"])
def test_shapes_that_trim_or_refuse_have_none_either(name: str) -> None:
    assert chat_templates.TEMPLATES[name].go(chat_templates.codec_of(name).specials) == ""
    assert TABLE["jinja"](template=TOOLS).go(specials_of(USUAL)) == ""


# -- numbers -----------------------------------------------------------------------------------------------------------
shares = st.one_of(st.sampled_from([0.0, 1.0, 1e-5, 1e-40, 0.95, 1 / 3]), st.floats(0, 1))
settings_drawn = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.one_of(st.sampled_from([0.0, 1e-200, 1e-5, 0.7, 1e5, 1e300]), st.floats(0.1, 3)),
        "top_k": st.sampled_from([None, 0, 1, 3, 1_000_000, 1 << 31]),
        "top_p": shares,
        "min_p": shares,
        "repetition_penalty": st.sampled_from([1.0, 1e-300, 0.5, 1.1, 100.0]),
        "repetition_growth": st.sampled_from(["once", "every_use"]),
        "frequency_penalty": st.sampled_from([0.0, 0.25, -1e-60, -100.0]),
        "presence_penalty": st.sampled_from([0.0, 0.25]),
        "max_tokens": st.sampled_from([1, 200, 1_000_000, 123_456_789, 1 << 31]),
        "order": st.permutations(ORDER).map(tuple),
    },
)


@given(drawn=settings_drawn, seed=st.integers(0, 9))
@example({"temperature": 0.7, "min_p": 0.2, "top_k": 3}, 0)
@example({"max_tokens": 1_000_000, "top_k": None}, 0)
def test_numbers_draw_the_same_or_it_is_said(drawn: dict[str, Any], seed: int) -> None:
    """Filters in Ollama's order with the numbers of the Modelfile, beside the run's own."""
    own = Decoding(**drawn)
    made = written(specials_of(USUAL), **drawn)
    found = modelfiles.read(made.text)
    assert found["num_predict"] == min(own.max_tokens, (1 << 31) - 1) and found["num_ctx"] == 48
    assert not own.filter("penalties").active() or found["repeat_last_n"] == 48
    for key, name in (("top_p", "top_p"), ("repetition_penalty", "repeat_penalty")):
        assert found[name] == pytest.approx(getattr(own, key), rel=1e-6, abs=1e-29)
    if made.notices:
        assert own.chain()
        return
    names = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty")
    theirs = Decoding(
        **{name: found[name] for name in names},
        top_k=found["top_k"],
        repetition_penalty=found["repeat_penalty"],
        order=ORDER,
    )
    rng = np.random.default_rng(seed)
    context = Context(np.array([1, 2, 2]), np.array([2, 3]))
    logits = rng.standard_normal(30) * 4
    assert odds(own, logits, context) == pytest.approx(odds(theirs, logits, context), abs=1e-5)


def odds(decoding: Decoding, logits: Any, context: Context) -> Any:
    for each in decoding.chain():
        logits = each.apply(logits, context)
    found = np.exp(logits - logits.max())
    return found / found.sum()


def test_where_the_same_numbers_draw_otherwise_is_said() -> None:
    @functools.cache
    def said(**decoding: Any) -> str:
        return " ".join(written(specials_of(USUAL), **decoding).notices)

    assert "here it is temperature, top_p" in said(temperature=0.8, top_p=0.9)
    assert not said(temperature=0.8, top_k=40, min_p=0.1) and not said(top_p=0.9, top_k=40) + said(top_p=0.9)
    assert not said(temperature=0.0, top_p=0.9, top_k=4)
    assert "in the order" in said(top_p=0.9, top_k=40, order=("top_p", "top_k"))
    assert "in the order" in said(temperature=0.0, repetition_penalty=2.0, order=("temperature", "penalties"))
    assert "count" in said(frequency_penalty=0.2) and "count" in said(presence_penalty=0.2)
    assert "every use" in said(repetition_penalty=1.1, repetition_growth="every_use")
    assert not said(repetition_penalty=1.1)


# -- ends --------------------------------------------------------------------------------------------------------------
@given(stops=st.lists(words.filter(bool), max_size=8))
@example(['a"', '"', '""', '"""', '"\n"', '"""\nx', '"""  \nx', "\\n", " x ", "\n", "\r", "\tx", "#", "\x00"])
def test_texts_that_stop_an_answer_come_through_or_are_named(stops: list[str]) -> None:
    made = written(specials_of(USUAL), stop=tuple(stops))
    lost = [text for text in stops if quoted(text) is None]
    assert modelfiles.read(made.text)["stop"] == [*dict.fromkeys([USUAL[2], USUAL[1], *stops])] or lost
    kept = [text for text in dict.fromkeys([USUAL[2], USUAL[1], *stops]) if text not in lost]
    assert modelfiles.read(made.text)["stop"] == kept and len(made.notices) == len(lost)
    for text in lost:
        for quotes in ('"', '"""', ""):
            try:
                found = modelfiles.commands(f"PARAMETER stop {quotes}{text}{quotes}\nPARAMETER top_k 1\n")
            except ValueError:
                continue
            assert found != [("stop", text), ("top_k", "1")], "nothing is left out that could be said"


# -- the file itself ---------------------------------------------------------------------------------------------------
def test_a_file_says_what_is_off_and_no_number_that_its_type_cannot_hold(tmp_path: Path) -> None:
    """llama.cpp takes 40 for a top_k that is not there, and looks for repetitions among 64 tokens."""
    own = model("byte")
    settings = Decoding(temperature=1e300, repetition_penalty=1e-300)
    plan = own.plan.model_copy(update={"decoding": settings})
    export_gguf(LanguageModel(plan, own.codec, own.weights(), "p", chat=True), tmp_path / "out")
    found = GGUFFile(tmp_path / "out" / "small.gguf")
    said = {key: found.files.metadata[f"general.sampling.{key}"] for key in ("top_k", "temp", "penalty_last_n")}
    assert said == {"top_k": 0, "temp": pytest.approx(3e38), "penalty_last_n": 48}
    assert "top_k" not in found.decoding() and found.decoding()["repetition_penalty"] == pytest.approx(1e-30)
