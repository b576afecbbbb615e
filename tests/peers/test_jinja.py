"""Chat templates give the text and the ids of the transformers library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.peers
transformers = pytest.importorskip("transformers")

import tokenizer_files  # noqa: E402
from chat_templates import SHAPES, TEMPLATES, codec_of  # noqa: E402

from llmspec.data.tokens import encode_dialogues  # noqa: E402
from llmspec.decoding.prompts import chat_prompt  # noqa: E402
from llmspec.parts.templates.base import Turn  # noqa: E402

DIALOGUES = [
    [("user", "Hello, how are you?")],
    [("user", "Hello"), ("assistant", "I'm fine, thanks!"), ("user", "naïve façade, 日本語 😀?")],
    [
        ("user", "The quick brown fox\njumps:\n\n1. over\n2. the lazy dog"),
        ("assistant", "  The fox.  "),
        ("user", "And?"),
    ],
    [("system", "Be brief."), ("user", "Is it?"), ("assistant", "It is.\n"), ("user", "user"), ("assistant", "So.")],
    [("user", "x"), ("assistant", "a\n\nb"), ("user", "</think> [INST]"), ("assistant", "Done")],
]


RENDERED = [
    (name, turns)
    for name in SHAPES
    for turns in DIALOGUES
    if not (name == "mistral" and turns[0][0] == "system")  # a role that its template does not have
]


@pytest.mark.parametrize(("name", "turns"), RENDERED)
def test_text_and_ids_are_those_of_the_library(name: str, turns: list[tuple[str, str]], tmp_path: Path) -> None:
    path = tokenizer_files.write(tmp_path, SHAPES[name][1])
    named = {key: value for key, value in json.loads((tmp_path / "tokenizer_config.json").read_text()).items() if value}
    named = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), chat_template=SHAPES[name][0], **named)
    codec, template = codec_of(name), TEMPLATES[name]
    messages = [{"role": role, "content": text} for role, text in turns]
    if turns[-1][0] == "user":
        text, _ = template._rendered(codec.specials, [Turn(r, (t,)) for r, t in turns], True)  # type: ignore[arg-type]
        assert text == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert chat_prompt(codec, template, turns) == expected
    text, _ = template._rendered(codec.specials, [Turn(r, (t,)) for r, t in turns], False)  # type: ignore[arg-type]
    assert text == theirs.apply_chat_template(messages, tokenize=False)
    data = encode_dialogues(codec, template, [[Turn(role, (said,)) for role, said in turns]])  # type: ignore[arg-type]
    assert data.tokens.tolist() == theirs.apply_chat_template(messages, return_dict=False)


def test_variables_reach_it_as_they_do_there(tmp_path: Path) -> None:
    path = tokenizer_files.write(tmp_path, "qwen")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), chat_template=SHAPES["qwen"][0])
    part = type(TEMPLATES["qwen"])(template=SHAPES["qwen"][0], variables={"enable_thinking": False})
    asked = [{"role": "user", "content": "Hello"}]
    expected = theirs.apply_chat_template(asked, add_generation_prompt=True, enable_thinking=False, return_dict=False)
    assert chat_prompt(codec_of("qwen"), part, [("user", "Hello")]) == expected
