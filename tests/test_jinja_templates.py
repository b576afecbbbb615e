"""A model's own chat template: what it writes, whose words are which, and what is refused of hostile ones."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import tokenizer_files
from chat_templates import SHAPES, TEMPLATES, codec_of
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.compiler.draft import closed
from llmspec.core.problems import DataError, SpecError
from llmspec.data.shaping import CODES
from llmspec.data.tokens import encode_dialogues
from llmspec.decoding.prompts import chat_prompt, pieces
from llmspec.parts.templates import TABLE
from llmspec.parts.templates.base import Turn, encode
from llmspec.parts.templates.sandbox import TemplateRefusal, rendered

SPELLED = [
    "<|im_end|>",
    "<|im_start|>",
    "</s>",
    "<s>",
    "[INST]",
    "<end_of_turn>",
    "<|eot_id|>",
    "<|im_",
    "end|>",
    "user",
]
words = st.lists(st.sampled_from([*SPELLED, "Hello", " ", "a", "é", "\n", "<think>"]), min_size=1, max_size=4).map(
    "".join
)


def dialogue(system: bool, rounds: list[tuple[str, str]]) -> list[tuple[str, str]]:
    first = [("system", "Be brief.")] if system else []
    return [*first, *(turn for user, said in rounds for turn in (("user", user), ("assistant", said)))]


def tokens_of(name: str, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """(ids, whose words each is) of a training dialogue."""
    data = encode_dialogues(codec_of(name), TEMPLATES[name], [[Turn(r, (t,)) for r, t in turns]])  # type: ignore[arg-type]
    assert data.role_of_token is not None
    return data.tokens.tolist(), data.role_of_token.tolist()


@pytest.mark.parametrize("name", SHAPES)
@given(rounds=st.lists(st.tuples(words.filter(str.strip), words.filter(str.strip)), min_size=1, max_size=3))
@settings(deadline=None, max_examples=30)
def test_a_prompt_is_a_training_dialogue_cut_before_an_answer(name: str, rounds: list[tuple[str, str]]) -> None:
    codec, template, turns = codec_of(name), TEMPLATES[name], dialogue(False, rounds)
    tokens, said_by = tokens_of(name, turns)
    for i, (role, _) in enumerate(turns):
        if role == "assistant":
            prompt = chat_prompt(codec, template, turns[:i])
            assert tokens[: len(prompt)] == prompt
            assert said_by[len(prompt)] == CODES["assistant"] and said_by[len(prompt) - 1] != CODES["assistant"]


@pytest.mark.parametrize("name", SHAPES)
@given(rounds=st.lists(st.tuples(words.filter(str.strip), words.filter(str.strip)), min_size=1, max_size=3))
@settings(deadline=None, max_examples=30)
def test_words_that_spell_special_tokens_are_text(name: str, rounds: list[tuple[str, str]]) -> None:
    """A dialogue has as many special tokens as one of harmless words."""
    codec = codec_of(name)
    special = {*codec.specials.values()} - {codec.specials.unk}
    plain = [("Hi", "Ho")] * len(rounds)
    counts = [[i for i in tokens_of(name, dialogue(False, r))[0] if i in special] for r in (rounds, plain)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", SHAPES)
def test_the_assistants_words_and_the_end_of_its_turn_are_its_own(name: str) -> None:
    codec, end = codec_of(name), SHAPES[name][2]
    turns = dialogue(name != "mistral", [("Hello", "the fox"), ("user", "assistant user")])
    tokens, said_by = tokens_of(name, turns)
    own = [t for t, code in zip(tokens, said_by, strict=True) if code == CODES["assistant"]]
    shown = codec.decode(own, specials=True).replace("<think>\n\n</think>\n\n", "")
    assert [part.strip() for part in shown.split(end)] == ["the fox", "assistant user", ""]
    assert (
        codec.decode([t for t, code in zip(tokens, said_by, strict=True) if code == CODES["user"]]).count("Hello") == 1
    )


def test_markers_in_words_are_special() -> None:
    codec, template = codec_of("chatml"), TEMPLATES["chatml"]
    asked = chat_prompt(codec, template, [("user", "a<|endoftext|>b<|im_end|>")], ("<|endoftext|>",))
    specials = codec.specials
    assert asked.count(specials["<|endoftext|>"]) == 1 and asked.count(specials["<|im_end|>"]) == 1, (
        "its own end of turn"
    )
    assert pieces(codec, "a<|endoftext|>", ("<|endoftext|>",))[1] == "<|endoftext|>"


def test_a_tokenizer_of_ours_can_be_used_too() -> None:
    from llmspec.parts.tokenizers import TABLE as TOKENIZERS

    codec = TOKENIZERS["byte"]().train(())
    template = TABLE["jinja"](
        template="{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end_of_turn|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    turns = [("user", "hi <|user|>"), ("assistant", "yo")]
    ours = TABLE["role_tokens"]()
    assert chat_prompt(codec, template, turns) == chat_prompt(codec, ours, turns)
    shaped = [[Turn("user", ("hi <|user|>",)), Turn("assistant", ("yo",))]]
    one, other = (encode_dialogues(codec, t, shaped) for t in (template, ours))
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.role_of_token.tolist() == other.role_of_token.tolist()  # type: ignore[union-attr]
    assert encode(codec, template.answer(codec.specials)) == [codec.specials.roles["assistant"]]


AMBIGUOUS = {
    "drops the words of earlier turns": "{% for m in messages %}{% if loop.last or m.role == 'user' %}"
    "{{ m.content }}{% endif %}<|im_end|>{% endfor %}",
    "shouts": "{% for m in messages %}{{ m.content | upper }}<|im_end|>{% endfor %}",
    "says them twice": "{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}",
    "counts turns first": "{{ messages | length }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
    "turns around": "{% for m in messages | reverse %}{{ m.content }}<|im_end|>{% endfor %}",
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_what_does_not_tell_whose_words_are_which_is_refused_in_words(what: str) -> None:
    codec, template = codec_of("chatml"), TABLE["jinja"](template=AMBIGUOUS[what])
    (problem,) = template.check(codec.specials)
    assert "cannot be told of turn" in problem.message
    assert chat_prompt(codec, template, [("user", "a"), ("assistant", "b"), ("user", "c")]), "it can be asked"


def test_templates_come_from_files(tmp_path: Path) -> None:
    text = SHAPES["chatml"][0]
    (tmp_path / "chat_template.jinja").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]
    (tmp_path / "several.json").write_text(json.dumps({"chat_template": named}))
    for name in ("chat_template.jinja", "tokenizer_config.json", "several.json"):
        part = TABLE["jinja"](file=name)
        found = closed(part, part.opened(str(tmp_path)))
        assert found.template == text and found.identity() == TEMPLATES["chatml"].identity()
    (tmp_path / "none.json").write_text("{}")
    for part, message in (
        (TABLE["jinja"](file="none.json"), "has no `chat_template`"),
        (TABLE["jinja"](file="absent.jinja"), "no such file"),
        (TABLE["jinja"](), "a Jinja template is missing"),
        (TABLE["jinja"](template="a\n{% if %}"), "line 2"),
    ):
        with pytest.raises(DataError, match=message):
            part.opened(str(tmp_path))


def test_a_template_that_writes_the_date_needs_one_in_training() -> None:
    specials = codec_of("chatml").specials
    text = "{{ strftime_now('%d %B %Y') }}" + SHAPES["chatml"][0]
    (problem,) = TABLE["jinja"](template=text).check(specials)
    assert problem.path == ("date",) and "today's date" in problem.message
    dated = TABLE["jinja"](template=text, date="2024-07-26")
    assert not list(dated.check(specials))
    assert "26 July 2024" in str(dated.prompt(specials, [Turn("user", ("x",))])[0].content)
    with pytest.raises(ValueError, match="no date"):
        TABLE["jinja"](template=text, date="July")


def test_variables_go_out_with_the_template() -> None:
    """Another program, which gives no values, writes the same text."""
    values = {"thinking": False, "name": 'a "b" é', "n": 3}
    part = TABLE["jinja"](template="{{ name }}{% if thinking %}x{% endif %}{{ n }}", variables=values)
    alone, _ = rendered(part.jinja(codec_of("chatml").specials), {})
    assert alone == rendered(part.template, values)[0] == 'a "b" é3'


def test_variables_reach_the_template() -> None:
    part = TABLE["jinja"](template="{% if not thinking %}quiet{% endif %}", variables={"thinking": False})
    assert part.prompt(codec_of("chatml").specials, [Turn("user", ("x",))])[0].content == "quiet"


GROWING = "{{% set n = namespace(s='aa') %}}{{% for i in range(60) %}}{{% set n.s = {} %}}{{% endfor %}}"
HOSTILE = {
    "file": ("{% include '/etc/passwd' %}", "no loader"),
    "import": ("{% import 'os' as os %}", "no loader"),
    "class": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "globals": ("{{ namespace.__init__.__globals__ }}", "unsafe"),
    "open": ("{{ open('/etc/passwd') }}", "undefined"),
    "change": ("{% set _ = messages.append(1) %}", "unsafe"),
    "loops": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "steps"),
    "recursion": ("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "RecursionError"),
    "calls": ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}", "steps"),
    "times": ("{{ 'a' * 10000000000 }}", "characters"),
    "list": ("{{ [1] * 10000000000 }}", "characters"),
    "power": ("{{ 9 ** (9 ** 9) }}", "integer"),
    "squares": ("{% set n = namespace(i=9) %}{% for i in range(99) %}{% set n.i = n.i * n.i %}{% endfor %}", "integer"),
    "ljust": ("{{ 'a'.ljust(10000000000) }}", "not offered"),
    "format": ("{{ '{:>10000000000}'.format(1) }}", "not offered"),
    "percent": ("{{ '%10000000000d' % 1 }}", "not offered"),
    "center": ("{{ 'a' | center(10000000000) }}", "center"),
    "indent": ("{{ 'a\nb' | indent(10000000000) }}", "characters"),
    "tojson": ("{{ [1, 2] | tojson(indent=10000000000) }}", "characters"),
    "doubling": (GROWING.format("n.s ~ n.s"), "characters"),
    "sums": (GROWING.format("n.s + n.s"), "characters"),
    "blocks": (
        "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set x %}{{ n.s }}{{ n.s }}{% endset %}"
        "{% set n.s = x %}{% endfor %}",
        "characters",
    ),
    "replace": (GROWING.format("n.s.replace('a', 'aa')"), "characters"),
    "join": (
        "{% set n = namespace(s='aa') %}{% for i in range(9) %}{% set n.s = range(9999) | join(n.s) %}{% endfor %}",
        "characters",
    ),
    "nested": (GROWING.format("[n.s, n.s]"), "(characters|seconds)"),
    "written": ("{% for i in range(99999) %}" + "x" * 100_000 + "{% endfor %}", "characters"),
    "long": ("x" * ((1 << 20) + 1), "read at most"),
    "deep": ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "cannot be read"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_templates_are_stopped(what: str) -> None:
    template, words_ = HOSTILE[what]
    began = time.process_time()
    with pytest.raises(TemplateRefusal, match=words_):
        rendered(template, {"messages": [{"role": "user", "content": "hi"}]})
    assert time.process_time() - began < 20


def test_errors_name_the_line() -> None:
    for template, message in (
        ("a\n{{ raise_exception('no system role') }}", "refuses this dialogue in line 2: no system role"),
        ("a\n\n{{ foo.bar }}", "fails in line 3: 'foo' is undefined"),
        ("a\n{{ 1 + 'a' }}", "fails in line 2"),
        ("a\n\n\n{% frob %}", "line 4"),
    ):
        with pytest.raises(TemplateRefusal, match=message):
            rendered(template, {})


def test_answers_end_where_the_template_ends_a_turn(tmp_path: Path) -> None:
    """Also where neither the tokenizer's end token nor generation_config.json says so."""
    import llmspec

    (tmp_path / "chat_template.jinja").write_text(SHAPES["chatml"][0])
    tokenizer = tokenizer_files.write(tmp_path / "base", "qwen", eos_token="<|endoftext|>")
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(file=tokenizer))
    plan = llmspec.compile(llmspec.load_spec(spec).spec)
    assert plan.tokenizer.turn_end == "<|im_end|>" and plan.tokenizer.eos == "<|endoftext|>"
    assert next(d.why for d in plan.decisions if d.path == "tokenizer.turn_end").startswith("what ends")
    codec = plan.tokenizer.at(plan.base).train(())
    assert codec.specials.turn_end == plan.tokenizer.meanings().turn_end == codec.specials["<|im_end|>"]
    spec.write_text(SPEC.format(file=tokenizer_files.kept("qwen")))
    assert llmspec.compile(llmspec.load_spec(spec).spec).tokenizer.turn_end is None, "its end token does"


def test_dialogues_that_a_template_refuses_are_counted(tmp_path: Path) -> None:
    import llmspec
    from llmspec.data.prepare import prepare

    (tmp_path / "chat_template.jinja").write_text(SHAPES["mistral"][0])
    spec = tmp_path / "spec.yaml"
    text = SPEC.format(file=tokenizer_files.kept("sentencepiece"))
    records = ", ".join(f"{{q: question {i}, a: answer {i}}}" for i in range(19))
    wrong = "{messages: [{role: assistant, content: I begin}, {role: user, content: no}]}"
    good = "{messages: [{role: user, content: one}, {role: assistant, content: two}]}"
    begin, end = text.index("    s: "), text.index("phases:")
    asked = "max_epochs: 999, dialogue: {user: '{q}', assistant: '{a}'}"
    source = f"    s: {{kind: inline, records: [{records}], {asked}}}\n"
    source += f"    odd: {{kind: inline, max_dropped: 60%, max_epochs: 999, records: [{wrong}, {good}]}}\n"
    spec.write_text((text[:begin] + source + text[end:]).replace("s: 100%", "s: 50%, odd: 50%"))
    prepared = prepare(llmspec.compile(llmspec.load_spec(spec).spec))
    lost = next(loss for loss in prepared.losses if loss.source == "odd")
    assert lost.dropped.counts == {"refused by the chat template": 1}
    assert "must alternate" in str(lost.dropped.examples)
    assert prepared.about["odd"]["train"]["documents"] == 1, "learned + dropped = read"
    spec.write_text(spec.read_text().replace("max_dropped: 60%", "max_dropped: 10%"))
    with pytest.raises(DataError, match="refused by the chat template"):
        prepare(llmspec.compile(llmspec.load_spec(spec).spec))


SPEC = """\
name: tiny
model: {{context: 64, d_model: 16, layers: 1, attention: {{heads: 2}}}}
tokenizer: {{kind: huggingface, file: {file}}}
chat_template: {{kind: jinja, file: chat_template.jinja}}
data:
  sources:
    s: {{kind: inline, records: [{{q: Hello <|im_end|>, a: the fox}}, {{q: naïve, a: the dog}}], max_epochs: 999,
        dialogue: {{user: "{{q}}", assistant: "{{a}}"}}}}
phases:
  p: {{kind: sft, mixture: {{s: 100%}}, budget: 2 steps, micro_batch_size: 1}}
decoding: {{max_tokens: 4}}
"""


def test_a_run_learns_and_answers_in_the_templates_form(tmp_path: Path) -> None:
    import llmspec
    from llmspec.compiler.plan import Plan

    (tmp_path / "chat_template.jinja").write_text(SHAPES["chatml"][0])
    spec = tmp_path / "spec.yaml"
    spec.write_text(SPEC.format(file=tokenizer_files.kept("qwen")))
    plan = llmspec.compile(llmspec.load_spec(spec).spec)
    assert plan.chat_template.template == SHAPES["chatml"][0]
    assert Plan.parse(json.dumps(plan.dump())) == plan
    llmspec.run(plan, tmp_path / "run")
    (tmp_path / "chat_template.jinja").unlink()
    model = llmspec.open(tmp_path / "run")
    assert (
        model.codec.decode(model.tokens("hi"), specials=True)
        == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert model.generate("hi")[0].tokens
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    with pytest.raises(SpecError, match="refuses this dialogue in line 1: never"):
        llmspec.compile(llmspec.load_spec(spec).spec)
