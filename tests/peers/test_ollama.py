"""Modelfiles in Ollama's own hands: what `ollama create` makes of them, and the prompts that their templates write.

LLMSPEC_OLLAMA_PEER names a program that is linked with Ollama's packages `parser`, `template` and `api`. Called with
the path of a Modelfile, it reads `{"dialogues": [[{"role": …, "content": …}, …], …], "chat_template": …}` and writes
either `{"error": …}` or, as one object of JSON:

- `commands`: pairs of a name and a value, from `parser.ParseFile`;
- `from`: names of the files, and `template`, of `Modelfile.CreateRequest`;
- `options`: what `api.Options.FromMap` makes of its parameters, after JSON, over `api.DefaultOptions`;
- `named`: what `template.Named` takes the chat template for, if for any;
- `rendered`: for each dialogue what `Template.Execute` writes of `template.Values{Messages: …}`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
PROGRAM = os.environ.get("LLMSPEC_OLLAMA_PEER", "")
if not PROGRAM:
    pytest.skip("LLMSPEC_OLLAMA_PEER names no program", allow_module_level=True)

import chat_templates  # noqa: E402
import modelfiles  # noqa: E402
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from test_gguf_export import model  # noqa: E402
from test_modelfile import (  # noqa: E402
    DEFAULT,
    LETTERS,
    PLAIN,
    USUAL,
    dialogues,
    settings_drawn,
    specials_of,
    spellings,
    turns_of,
    words,
    written,
)

from llmspec.data.pair_form import PairForm  # noqa: E402
from llmspec.decoding.language_model import LanguageModel  # noqa: E402
from llmspec.exchange.gguf_exporting import export_gguf  # noqa: E402
from llmspec.parts.templates import TABLE  # noqa: E402

ODD = ["a{", '"', "{{", "}", "{", "\u00a0", "- x"]
few = settings(max_examples=60, deadline=None)


def asked(file: Path, dialogues: Any = (), chat_template: str = "") -> dict[str, Any]:
    turns = [[{"role": role, "content": text} for role, text in dialogue] for dialogue in dialogues]
    question = json.dumps({"dialogues": turns, "chat_template": chat_template})
    done = subprocess.run([PROGRAM, str(file)], input=question.encode(), capture_output=True, check=True)
    return json.loads(done.stdout)


def made(text: str, dialogues: Any = (), chat_template: str = "") -> dict[str, Any]:
    """What Ollama makes of the text of a Modelfile, beside which the file of weights lies."""
    with tempfile.TemporaryDirectory() as place:
        Path(place, "Modelfile").write_text(text, "utf-8", newline="")
        Path(place, "a.gguf").write_bytes(b"GGUF")
        return asked(Path(place, "Modelfile"), dialogues, chat_template)


@given(spelled=spellings, drawn=st.lists(dialogues, min_size=1, max_size=4))
@example(ODD, [[("user", "{{"), ("assistant", '"""\n')]])
@few
def test_dialogues_are_written_as_here(spelled: list[str], drawn: Any) -> None:
    specials = specials_of(spelled)
    found = made(written(specials).text, drawn)
    form = TABLE["role_tokens"]()
    wanted = [modelfiles.spelled(specials, form.prompt(specials, turns_of(each)), specials.bos) for each in drawn]
    assert found["rendered"] == wanted and found["from"] == ["a.gguf"]


@given(spelled=spellings, drawn=st.lists(dialogues, min_size=1, max_size=4))
@example(ODD, [[("user", "{{"), ("assistant", "a"), ("user", "b")]])
@few
def test_sources_of_pairs_are_too(spelled: list[str], drawn: Any) -> None:
    specials = specials_of(spelled)
    found = made(written(specials, chat=False, pairs=True).text, drawn)
    ours = [[*PairForm(encoder=False).render(specials, turns_of(each[-1:]))] for each in drawn]
    assert found["rendered"] == [modelfiles.spelled(specials, each, specials.bos) for each in ours]


@given(text=words.filter(bool))
@few
def test_a_prompt_to_go_on_from_is_what_it_is(text: str) -> None:
    assert made(written(specials_of(USUAL), chat=False).text, [[("user", text)]])["rendered"] == [text]


@pytest.mark.parametrize("source", [chat_templates.CHATML, chat_templates.OWN, DEFAULT, PLAIN])
@given(drawn=st.lists(dialogues, min_size=1, max_size=4))
@few
def test_templates_in_jinja_are_too(source: str, drawn: Any) -> None:
    specials, template = specials_of(USUAL), TABLE["jinja"](template=source)
    drawn = [each for each in drawn if source is not PLAIN or all(role != "developer" for role, _ in each)]
    found = made(written(specials, template=template).text, drawn, source)
    wanted = [modelfiles.spelled(specials, template.prompt(specials, turns_of(each)), specials.bos) for each in drawn]
    assert (found["rendered"] or []) == wanted


@given(drawn=settings_drawn, stops=st.lists(words.filter(bool), max_size=6))
@example({"max_tokens": 1_000_000, "temperature": 1e300, "top_k": None}, ['"\n"', '"""', "\\n", " x ", "\r"])
@few
def test_numbers_and_ends_are_read_as_here(drawn: dict[str, Any], stops: list[str]) -> None:
    text = written(specials_of(USUAL), stop=tuple(stops), **drawn).text
    found, wanted = made(text), modelfiles.read(text)
    assert "error" not in found, found
    for name in {*wanted} - {"from", "template", "stop"}:
        assert found["options"][name] == pytest.approx(wanted[name], rel=1e-6, abs=1e-44), name
    assert found["options"]["stop"] == wanted["stop"] and found["template"] == wanted["template"]
    assert found["options"]["typical_p"] == 1


@given(value=st.text(LETTERS + '"""\n\n  #', max_size=12), quotes=st.sampled_from(["", '"', '"""']))
@settings(max_examples=200, deadline=None)
def test_the_reader_of_the_other_tests_reads_as_ollama_does(value: str, quotes: str) -> None:
    text = f"FROM ./a.gguf\nPARAMETER stop {quotes}{value}{quotes}\nPARAMETER top_k 1\n"
    found = made(text)
    try:
        wanted = modelfiles.read(text)
    except ValueError:
        assert "error" in found
    else:
        assert found["options"]["stop"] == wanted["stop"] and found["options"]["top_k"] == wanted.get("top_k", 40)


@pytest.mark.parametrize("pairs", [False, True])
def test_an_exported_folder_is_taken_as_it_is(pairs: bool, tmp_path: Path) -> None:
    own = model()
    if pairs:
        own = LanguageModel(own.plan, own.codec, own.weights(), "p", chat=False)
        own.pairs = True
    export_gguf(own, tmp_path / "out")
    turns = [("user", "one"), ("assistant", "two"), ("user", "two pears?")]
    found = asked(tmp_path / "out" / "Modelfile", [turns])
    assert found["from"] == ["small.gguf"] and found["options"]["num_predict"] == own.plan.decoding.max_tokens
    form = PairForm(encoder=False) if pairs else own.plan.chat_template
    wanted = form.prompt(own.codec.specials, turns_of(turns[-1:] if pairs else turns))
    assert found["rendered"] == [modelfiles.spelled(own.codec.specials, wanted, own.codec.specials.bos)]
