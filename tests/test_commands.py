"""Commands that are printed are true: pasted, they do what is said, and their verbs and options exist."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny
from hypothesis import example, given
from hypothesis import strategies as st
from terminals import shell_words
from typer.main import get_command

from llmspec.cli.app import app
from llmspec.cli.run import again
from llmspec.cli.verb import MEANT
from llmspec.core.visible import acts, command, path_word
from llmspec.render import live
from llmspec.render.terminal import Screen
from llmspec.training.stop import Interrupted

VERBS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = {verb: {o for p in made.params for o in p.opts} | {"--help", "-h"} for verb, made in VERBS.items()}
NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


# -- pasted --------------------------------------------------------------------------------------------------------
@given(st.lists(NAMES, min_size=1, max_size=3))
@example(["it's", '$HOME `x` "y"', "-rf", "\x1b[31m1", "a\nb", "ü \u202e", "~", "*", "", "!x", "#", "a=b c"])
def test_a_shell_reads_back_what_was_said(words: list[str]) -> None:
    line = command(*words)
    assert shell_words(line) == ["llmspec", *words] and not any(acts(c) for c in line)


@given(NAMES, st.none() | NAMES, st.lists(NAMES.map(lambda text: f"name={text}"), max_size=2), st.booleans())
@example("-x.yaml", "-o ut", ["phases.pretrain.budget=3M tokens"], True)
@example("a b.yaml", "it's $x", [], False)
def test_the_command_that_goes_on_is_the_command_that_was_given(
    spec: str, out: str | None, sets: list[str], flag: bool
) -> None:
    values = {
        "spec": Path(spec),
        "out": Path(out) if out else None,
        "set_": sets,
        "offline": flag,
        "locked": flag,
        "lock": None if flag else Path("x y"),
        "only": ["a b", "c"] if flag else None,
        "from_": None if flag else "it's",
        "continue_from": Path("a run") if flag else None,
        "no_reuse": flag,
        "json_": flag,
    }
    line = again(**values)
    console = Screen(file=io.StringIO(), width=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "out", lambda: console)
        with pytest.raises(Interrupted), live.watcher(line):
            raise Interrupted("pretrain", 3)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    verb, *arguments = shell_words(said[said.index("llmspec ") :].rstrip("\n"))[1:]
    assert VERBS[verb].make_context(verb, arguments).params == {
        **values,
        "set_": sets or (),
        "only": values["only"] or (),
        "dry_run": False,
        "certify": False,
    }


@given(NAMES)
@example("-r")
@example("~")
@example("~root")
def test_a_path_is_never_taken_for_an_option(name: str) -> None:
    found = VERBS["sample"].make_context("sample", [path_word(Path(name))]).params["run"]
    assert found == Path(name)


def test_what_to_try_names_the_run(tmp_path: Path) -> None:
    spec = tiny.write(tmp_path)
    done = tiny.call(
        "run",
        spec,
        "--set",
        "phases.pretrain.budget=1 steps",
        "--set",
        "phases.chat.budget=1 steps",
        "--out",
        "-o $ut",
        cwd=tmp_path,
    )
    assert (done.returncode == 2 and "--out" in done.stderr) or done.returncode == 0, done.stderr
    lines = [shell_words(line) for line in done.stdout.splitlines() if line.startswith("  llmspec ")]
    assert [words[1] for words in lines] == ["sample", "explain"], done.stdout
    assert all((tmp_path / words[2] / "plan.json").is_file() for words in lines)
    tried = tiny.call(*lines[0][1:], cwd=tmp_path)
    assert tried.returncode == 0, tried.stderr


# -- true ----------------------------------------------------------------------------------------------------------
FOREIGN = re.compile(r"compilers|toolchain|backends/|data/fetch|model/graph_memory")
"""Files whose options are those of compilers, of pip, and of processes of our own."""


@cache
def texts() -> tuple[tuple[str, str], ...]:
    """(where, text) of every string in the package, and the README's lines."""
    return tuple(_texts())


def _texts() -> Iterator[tuple[str, str]]:
    for path in sorted((tiny.ROOT / "llmspec").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            where = f"{path.relative_to(tiny.ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.JoinedStr):
                yield where, "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield where, node.value
    code = False
    for number, line in enumerate((tiny.ROOT / "README.md").read_text("utf-8").splitlines(), 1):
        code ^= line.startswith("```")
        yield f"README.md:{number}", line.replace(".venv/bin/", "") if code else f"  {line}"


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of ours that a text tells to give: in backticks, or at a line's start."""
    bare = re.findall(r"^llmspec ([a-z].*)$", text, re.MULTILINE)
    for found in re.findall(r"`(?:\S+/)?llmspec ([^`]*)`", text) + bare:
        yield found.split("#")[0].split()


def calls() -> Iterator[tuple[str, list[str]]]:
    """Words given to `command(...)`, as far as they are written there."""
    for path in sorted((tiny.ROOT / "llmspec").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "command":
                words = [
                    "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in a.values)
                    if isinstance(a, ast.JoinedStr)
                    else str(a.value)
                    if isinstance(a, ast.Constant)
                    else "X"
                    for a in node.args
                ]
                yield f"{path.name}:{node.lineno}", words


def wrong(words: list[str]) -> str:
    """What of a command does not exist."""
    verb, rest = words[0], words[1:]
    if verb in ("X", "VERB", "[OPTIONS]") or verb.startswith("--"):
        return "" if verb in ("X", "VERB", "[OPTIONS]", "--help", "--version") else verb
    if verb not in VERBS:
        return verb
    given = [word.partition("=")[0].strip(".,;)'") for word in rest if re.match(r"--?[a-z]", word)]
    return next((option for option in given if option not in OPTIONS[verb]), "")


def test_printed_commands_exist() -> None:
    found = [(where, words) for where, text in texts() for words in commands(text) if words]
    assert len(found) > 30
    assert not [(where, words) for where, words in (*found, *calls()) if wrong(words)]


def test_every_command_is_known_where_a_mistake_is_told() -> None:
    """Its name stands in messages, and words that are used for it elsewhere lead to it alone."""
    assert set(MEANT) == VERBS.keys()
    words = [word for line in MEANT.values() for word in line.split()]
    assert len(set(words)) == len(words) and not VERBS.keys() & set(words)


def test_printed_options_exist() -> None:
    every = set().union(*OPTIONS.values()) | {"--version"}
    bad = [
        (where, option)
        for where, text in texts()
        if not FOREIGN.search(where) and "pip install" not in text
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
        if option not in every
    ]
    assert not bad
