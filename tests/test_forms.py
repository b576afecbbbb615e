"""Every option of every verb, in every form of the verb: it does something there, or it is refused and told where."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from typer.core import TyperCommand
from typer.main import get_command

from llmspec.cli.app import app
from llmspec.cli.forms import FORMS, SAMPLE_PLAIN, SAMPLE_TEXT, Form, form, turns_for
from llmspec.core.problems import LlmspecError

VERBS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
BASES = {
    "run SPEC": ["a.yaml"],
    "run SPEC --dry-run": ["a.yaml", "--dry-run"],
    "gc [RUNS]": [],
    "gc --caches": ["--caches"],
    "run SPEC --certify": ["a.yaml", "--certify"],
    "sample": [],
    "sample --plain": ["--plain"],
    "sample --classify": ["--classify"],
    "chat [RUN]": [],
    "rank [RUN]": ["r", "--prompts=x", "--out=y"],
    "rank [RUN] --by REWARD": ["r", "--by=length", "--prompts=x", "--out=y"],
    "rank --answers KEY": ["--answers=a", "--prompts=x", "--out=y"],
    "rank --answers KEY --by REWARD": ["--answers=a", "--by=length", "--prompts=x", "--out=y"],
    "embed [RUN]": [],
    "explain SPEC": ["a.yaml"],
    "explain SPEC --part PART": ["a.yaml", "--part=model"],
    "explain SPEC SPEC": ["a.yaml", "b.yaml"],
    "explain RUN RUN": ["r", "s"],
    "explain [RUN]": ["r"],
    "explain RUN --exact": ["r", "--exact"],
    "explain RUN --part PART": ["r", "--part=model"],
    "explain [RUN] --prompt TEXT": ["r", "--prompt=x"],
    "explain [RUN] --tokens": ["r", "--tokens"],
    "explain [RUN] --by REWARD": ["r", "--by=length"],
    "check SPEC": ["a.yaml"],
    "new FOLDER --text PATH": ["a", "--text=x"],
    "new FOLDER --chat PATH": ["a", "--chat=x"],
    "new FOLDER": ["a"],
    "schema": [],
    "import PATH --out DIR": ["a", "--out=b"],
    "merge [RUN] --out DIR": ["a", "--out=b"],
    "export [RUN] --out DIR": ["a", "--out=b"],
    "export [RUN] --to gguf --out DIR": ["a", "--to=gguf", "--out=b"],
    "bench [SPEC]": [],
    "bench --only decode": ["--only=decode"],
    "bench MODEL": ["MODEL"],
    "bench --only machine": ["--only=machine"],
}
"""Arguments that make a form, by its line; MODEL is a folder that holds one."""
VALUES = {
    "set": "seed=1",
    "n": "2",
    "batch": "2",
    "quantize": "q8_0",
    "seed": "1",
    "top": "2",
    "rounds": "2",
    "steps": "2",
    "prompt_tokens": "2",
    "minutes": "5",
    "repeats": "0.5",
    "older_than": "5",
    "most": "2 GB",
    "only": "machine",
    "against": "torch",
}


def options(verb: str) -> dict[str, str]:
    """Parameter name -> how it is written, with a value where it takes one; --help left out."""
    found = {}
    for p in VERBS[verb].params:
        if p.param_type_name == "option" and p.name != "help":
            plain = p.name.rstrip("_")
            found[plain] = p.opts[-1] if p.is_flag else f"{p.opts[-1]}={VALUES.get(plain, 'x')}"
    return found


def meet(verb: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[Form, bool, str]:
    """(the form, whether the verb's work began, what was said)."""
    began: list[str] = []
    monkeypatch.setattr(TyperCommand, "invoke", lambda self, ctx: began.append(self.name))
    command = VERBS[verb]
    monkeypatch.setattr("llmspec.cli.forms.holds_model", lambda path: path.name == "MODEL")
    context = command.make_context(verb, list(arguments))
    found = form(verb, {name.rstrip("_"): value for name, value in context.params.items()})
    try:
        command.invoke(context)
    except SystemExit as e:
        assert e.code == 2
    return found, bool(began), " ".join(capsys.readouterr().err.split())


def pairs() -> list[tuple[str, str, str]]:
    return [
        (f.line, verb, option) for f in FORMS for verb in (f.verb,) for option in options(verb) if f is not SAMPLE_TEXT
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_form_in_which_it_does_something(verb: str) -> None:
    table = set().union(*(f.acts for f in FORMS if f.verb == verb))
    assert set(options(verb)) == table


@pytest.mark.parametrize(("line", "verb", "option"), pairs())
def test_an_option_acts_or_is_refused(
    line: str, verb: str, option: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    base = [a for a in BASES[line] if not a.startswith(f"--{option.replace('_', '-')}")]
    found, began, said = meet(verb, [*base, options(verb)[option]], monkeypatch, capsys)
    given = {option, *(a[2:].partition("=")[0].replace("-", "_") for a in base if a.startswith("--"))}
    assert began == (given <= found.acts), said
    for name in given - found.acts:
        nothing, line = rf"--{name.replace('_', '-')} does nothing in", rf"`llmspec {verb}\b.*?`"
        belongs = re.search(rf"{nothing} {line} .*?hint: it belongs to {line}", said)
        assert belongs, said


@pytest.mark.parametrize(
    ("verb", "arguments", "refused"),
    [
        ("explain", ["a.yaml", "--prompt=x"], "prompt"),
        ("explain", ["a.yaml", "b.yaml", "--part=model"], "part"),
        ("explain", ["r", "--set=seed=1"], "set"),
        ("explain", ["r", "--top=3"], "top"),
        ("explain", ["r", "--seed=3"], "seed"),
        ("explain", ["r", "--part=model", "--set=seed=1"], "set"),
        ("explain", ["a.yaml", "--part=model", "--exact"], "exact"),
        ("explain", ["--time"], "time"),
        ("explain", ["r", "s", "--set=seed=1"], "set"),
        ("explain", ["r", "--prompt=x", "--exact"], "exact"),
        ("sample", ["--plain", "--system=x"], "system"),
        ("bench", ["--only=machine", "--steps=3"], "steps"),
        ("bench", ["--only=machine", "--phase=chat"], "phase"),
        ("bench", ["--only=decode", "--phase=chat"], "phase"),
        ("bench", ["--only=machine", "--rounds=9"], "rounds"),
        ("run", ["a.yaml", "--locked", "--lock=x"], "lock"),
        ("check", ["a.yaml", "--set=seed=1", "--set=seed=2"], "set"),
    ],
)
def test_what_did_nothing_is_refused(
    verb: str, arguments: list[str], refused: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    _, began, said = meet(verb, arguments, monkeypatch, capsys)
    assert not began and f"--{refused}" in said


def test_a_model_without_dialogues_has_no_system_turn_and_a_chat_model_no_empty_prompt() -> None:
    model = SimpleNamespace(chat=False)
    with pytest.raises(LlmspecError, match="--system does nothing"):
        turns_for(model, False, "x", "be brief")
    for prompt in ("", " \n"):
        with pytest.raises(LlmspecError, match="the prompt is empty"):
            turns_for(model, True, prompt, "")
    assert turns_for(model, False, "", "") == "" and "system" not in SAMPLE_PLAIN.acts | SAMPLE_TEXT.acts
    assert turns_for(model, True, "x", "be brief") == [("system", "be brief"), ("user", "x")]


def test_every_path_expands_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    seen = 0
    for verb, command in VERBS.items():
        for parameter in command.params:
            kind = "argument" if parameter.param_type_name == "argument" else "option"
            if parameter.metavar not in ("SPEC", "RUN", "SPEC | RUN", "FOLDER", "FILE", "PATH"):
                assert "Path" not in str(getattr(parameter, "type", "")), (verb, parameter.name)
                continue
            needed = ["a.yaml"] if verb in ("run", "check", "new") and kind == "option" else []
            given = ["~/x"] if kind == "argument" else [f"{parameter.opts[-1]}=~/x"]
            context = command.make_context(verb, [*needed, *(["r"] if parameter.name == "other" else []), *given])
            assert context.params[parameter.name] == Path("/home/somebody/x"), (verb, parameter.name)
            seen += 1
    assert seen == 27


def test_empty_paths_and_paths_with_a_nul_are_refused() -> None:
    for arguments in (["run", ""], ["run", "a.yaml", "--out="], ["schema", "-o", " "], ["sample", ""]):
        done = tiny.call(*arguments)
        assert done.returncode == 2 and "a path cannot be empty" in done.stderr, arguments
