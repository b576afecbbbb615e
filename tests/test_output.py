"""What is printed is what was said: no text acts on a terminal, and no output is too poor to be written to."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from terminals import HOSTILE, acting, environment, on_terminal

from llmspec.core.problems import Mark, Problem, columns
from llmspec.core.visible import acts, visible
from llmspec.render import samples, waiting
from llmspec.render.ascii import ASCII
from llmspec.render.live import Plain
from llmspec.render.problems import as_text
from llmspec.render.terminal import Screen, Text, print_json

ANY = st.text(st.characters())
STEPS = ("--set", "phases.pretrain.budget=2 steps", "--set", "phases.chat.budget=2 steps")


@given(ANY)
def test_no_visible_text_acts(text: str) -> None:
    shown = visible(text)
    assert not any(acts(c) for c in shown if c not in "\n\t") and visible(shown) == shown
    assert visible(text, keep="").isprintable() or any(c.isspace() or ord(c) > 127 for c in text)
    for screen in (
        Screen(file=io.StringIO(), force_terminal=True, width=40),
        Screen(file=io.StringIO(), force_terminal=False, width=40),
    ):
        screen.print(text)
        screen.print(Text(text, style="bold"), Text.assemble((text, "red"), text))
        screen.rule(text)
        assert not acting(screen.file.getvalue())  # type: ignore[attr-defined]


@given(ANY, st.integers(0, 40), st.integers(0, 10))
def test_excerpts_show_the_line_and_point_at_it(text: str, caret: int, length: int) -> None:
    line = "".join(text.splitlines()) + "end"
    problem = Problem(text, (text,), text, text, Mark(text, 1, caret + 1, line, min(caret, len(line) - 1), length))
    assert not acting(as_text(problem).plain) and not acting(problem.mark.excerpt() if problem.mark else "")


def test_the_caret_stands_below_what_is_meant() -> None:
    for line, word in (("  a\x1b: 漢字 wrong", "wrong"), (f"{'x' * 500}: wrong {'y' * 500}", "wrong")):
        shown, carets = Mark("f", 1, 1, line, line.index(word), len(word)).excerpt().splitlines()[1:]
        wide = sum(c in "漢字" for c in shown)
        assert len(shown) < 200 and shown.index(word) + wide == carets.index("^") and carets.count("^") == len(word)


def test_text_of_a_model_is_itself_in_a_file_and_harmless_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(attributions=[SimpleNamespace(source="s", license=HOSTILE, attribution=HOSTILE)])
    events = [SimpleNamespace(row=0, text=piece, finish_reason=None) for piece in (HOSTILE, " :dog:\tx", "\n\n  [b]y")]
    for terminal in (False, True):
        said, noted = io.StringIO(), io.StringIO()
        screens = (Screen(file=said, force_terminal=terminal, width=20), Screen(file=noted, force_terminal=True))
        monkeypatch.setattr(samples, "out", lambda screens=screens: screens[0])
        monkeypatch.setattr(samples, "err", lambda screens=screens, **more: screens[1])
        samples.show(model, HOSTILE, iter(events), 1, chat=False)
        exact = HOSTILE + HOSTILE + " :dog:\tx\n\n  [b]y\n"
        assert not acting(noted.getvalue())
        assert (not acting(said.getvalue()) and ":dog:\tx" in said.getvalue()) if terminal else said.getvalue() == exact


@given(
    st.recursive(
        ANY | st.floats() | st.integers() | st.none() | st.booleans(),
        lambda inner: st.lists(inner) | st.dictionaries(ANY, inner),
        max_leaves=8,
    ),
    st.sampled_from(["utf-8", "ascii", "latin-1"]),
    st.sampled_from([1, None]),
)
def test_json_is_json_in_every_encoding(value: Any, encoding: str, indent: int | None) -> None:
    raw = io.BytesIO()
    print_json(value, file := io.TextIOWrapper(raw, encoding=encoding, newline=""), indent)
    text = raw.getvalue().decode(encoding)
    assert file and not acting(text) and text.endswith("\n") and (indent or text.count("\n") == 1)

    def refuse(number: str) -> None:
        raise AssertionError(number)

    assert repr(json.loads(text, parse_constant=refuse)) == repr(numbered(value))


def numbered(value: Any) -> Any:
    """A value as JSON has it: no NaN, no infinities, pairs of surrogates joined."""
    if isinstance(value, dict):
        return {numbered(k): numbered(v) for k, v in value.items()}
    if isinstance(value, list):
        return [numbered(v) for v in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return None if isinstance(value, float) and value - value != 0 else value


# -- every verb ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec that holds hostile text wherever text may stand, and its run, made on a terminal."""
    text, quoted = tiny.TINY, json.dumps(HOSTILE)
    for old, new in (
        ("license: PSF-2.0", f"license: {quoted}, attribution: {quoted}"),
        ("context: 16", "context: 64"),
        ('prompts: ["one"]', f"prompts: [{quoted}]"),
        ('a: "uno"', f"a: {quoted}"),
        ("max_tokens: 12", f"max_tokens: 4, stop: [{quoted}]"),
    ):
        assert old in text
        text = text.replace(old, new)
    folder = tmp_path_factory.mktemp("hostile")
    spec = tiny.write(folder, text, "\x1b[2J[red].yaml")
    status, said = on_terminal("run", spec.name, "--out", "[:dog:][x]\x1b[2J", *STEPS, cwd=folder)
    assert status == 0, said
    assert not acting(said) and "🐶" not in said and "[:dog:]" in said
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "RUN", "--prompt", HOSTILE, "--n", "2"),
        ("sample", "RUN", "--plain", "--prompt", HOSTILE[:20]),
        ("explain", "RUN"),
        ("explain", "SPEC"),
        ("explain", "RUN", "--prompt", HOSTILE, "--top", "2"),
        ("check", "SPEC", "--set", f"model.{HOSTILE}=1", "--set", f"name={HOSTILE}"),
        ("check", HOSTILE),
        (HOSTILE,),
        ("explain", "RUN", "--json"),
        ("explain", "SPEC", "--part", HOSTILE),
        ("run", "SPEC", f"--{HOSTILE}"),
    ],
    ids=lambda given: " ".join(given)[:12],
)
def test_no_verb_lets_a_text_act(hostile: Path, arguments: tuple[str, ...]) -> None:
    words = {"RUN": "[:dog:][x]\x1b[2J", "SPEC": "\x1b[2J[red].yaml"}
    status, said = on_terminal(*(words.get(a, a) for a in arguments), cwd=hostile)
    assert status in (0, 2) and "Traceback" not in said and not acting(said) and "🐶" not in said, said
    if "--json" in arguments:
        json.loads(said)


def test_a_word_about_waiting_does_not_wipe_the_prompt_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AFTER", 0.01)
    both = Screen(file=io.StringIO(), force_terminal=True, color_system=None)
    for name in ("out", "err"):
        monkeypatch.setattr(samples, name, lambda **more: both)
    monkeypatch.setattr(waiting, "err", lambda: both)

    def slowly() -> Iterator[Any]:
        time.sleep(0.2)
        yield SimpleNamespace(row=0, text=" soft", finish_reason="stop")

    samples.show(SimpleNamespace(attributions=[]), "But", slowly(), 1, chat=False)
    said = both.file.getvalue()  # type: ignore[attr-defined]
    assert "compiling" in said and "But soft\n" in said and "\x1b" not in said[said.index("But") :]


def test_text_that_is_redirected_is_exact(hostile: Path) -> None:
    prompt = "a\x1b[31m\t:dog: [b] " + "long " * 9
    done = tiny.call("sample", "[:dog:][x]\x1b[2J", "--plain", "--prompt", prompt, cwd=hostile, COLUMNS="20")
    assert done.returncode == 0 and done.stdout.startswith(prompt), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "SPEC", "--out", "[:dog:][x]\x1b[2J", *STEPS),
        ("sample", "RUN", "--prompt", "ü→"),
        ("explain", "SPEC"),
        ("explain", "RUN"),
        ("explain", "RUN", "--prompt", "ü"),
        ("check", "SPEC"),
        ("schema",),
        ("check", "ü→.yaml"),
        ("--help",),
        ("explain", "RUN", "--json"),
        ("check", os.fsdecode(b"\xff.yaml")),
        ("explain", "SPEC", "SPEC"),
        ("explain", "SPEC", "--part", "model.mlp"),
        ("bench", "SPEC", "--phase", "ü"),
    ],
    ids=lambda given: " ".join(given)[:24],
)
def test_no_output_is_too_poor(hostile: Path, arguments: tuple[str, ...]) -> None:
    encoding = "latin-1" if arguments[0] == "check" else "ascii"
    words = {"RUN": "[:dog:][x]\x1b[2J", "SPEC": "\x1b[2J[red].yaml"}
    env = environment(PYTHONIOENCODING=encoding)
    command = tiny.command(*(words.get(a, a) for a in arguments))
    done = subprocess.run(command, capture_output=True, cwd=hostile, env=env)
    said = (done.stdout + done.stderr).decode(encoding)
    assert done.returncode in (0, 2) and "Error" not in said.replace("PermissionError", ""), said
    assert done.returncode == (2 if any("ü→." in a or "\udcff" in a or "bench" in a for a in arguments) else 0), said


def test_our_own_signs_have_ascii_forms() -> None:
    elsewhere = (
        "core/visible.py",
        "spec/dump.py",
        "render/ascii.py",
        "data/",
        "parts/sources/",
        "parts/tokenizers/",
        "formats/gguf/tokenizers.py",
        "exchange/read_back.py",
        "parts/templates/jinja.py",  # marks in a rendered text, which never leave it
        "parts/rewards/arithmetic.py",  # signs that are read
    )  # the last hold letters of data
    package = tiny.ROOT / "llmspec"
    for path in sorted(package.rglob("*.py")):
        if str(path.relative_to(package)).startswith(elsewhere):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                missing = {c for c in node.value if ord(c) > 127 and ord(c) not in ASCII}
                assert not missing, f"{path.name}:{node.lineno}: {missing}"


def test_everything_goes_through_the_gate() -> None:
    """Only llmspec.render.terminal prints, makes consoles and texts; processes that answer another are their own."""
    package = tiny.ROOT / "llmspec"
    answering = {"bench/worker.py", "model/graph_memory.py", "model/cross_compile.py", "cli/__init__.py"}
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        if name == "render/terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in ("rich.console", "rich.text"):
                assert not {a.name for a in node.names} & {"Console", "Text"}, f"{name}:{node.lineno}"
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                loud = called in ("print", "typer.echo", "typer.secho") or called.endswith(
                    ("stdout.write", "stderr.write", "print_exc")
                )
                assert not loud or name in answering, f"{name}:{node.lineno}: {called}"


NOTE = (
    "checked before step 0: no token sees the future; no token sees another document; " + "x" * 45 + "; "
    "matrix products run in plain tinygrad, 漢字 many times slower: [no] compiler :dog:"
)


@pytest.mark.parametrize("width", [20, 40, 80, 300])
def test_notes_break_between_words_and_hang(width: int) -> None:
    screen = Screen(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    Plain(screen).notice(NOTE)
    lines = [line.rstrip() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines[0].startswith("note: ") and all(line.startswith("     ") for line in lines[1:])
    assert all(columns(line) <= width for line in lines)
    longest = {w for w in NOTE.split() if columns(w) > width - 6}
    assert (set(NOTE.split()) - longest) <= {w for line in lines for w in line.split()}
    file = Screen(file=io.StringIO(), width=width)
    Plain(file).notice(NOTE)
    assert file.file.getvalue() == f"note: {NOTE}\n"  # type: ignore[attr-defined]  # a log's line stays one


@pytest.mark.parametrize("columns_", ["0", "1", "5", "-3", "many", "100000"])
def test_no_width_is_too_odd(columns_: str) -> None:
    done = tiny.call("explain", "quickstart", "--part", "model.mlp", COLUMNS=columns_)
    assert done.returncode == 0, done.stderr
    # On a busy machine waiting is told, and in so narrow a column its line is many.
    assert "".join(done.stderr.split())[-1:] in ("", "…"), done.stderr


def test_what_takes_long_is_told_and_what_is_quick_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AFTER", 0.05)
    for terminal, lines, seconds, told in (
        (False, True, 0.3, True),
        (False, True, 0, False),
        (True, False, 0, False),
        (False, False, 0.3, False),
        (True, False, 0.3, True),
    ):
        screen = Screen(file=io.StringIO(), force_terminal=terminal, width=40)
        monkeypatch.setattr(waiting, "err", lambda screen=screen: screen)
        with waiting.waiting("reading \x1b[2J", lines=lines) as say:
            say("reading docs [/x] 50%")
            time.sleep(seconds)
        said = screen.file.getvalue()  # type: ignore[attr-defined]
        assert ("reading docs [/x] 50%" in said) == told and not acting(said)
        assert said == "reading docs [/x] 50% …\n" or terminal or not told


def test_words_that_the_locale_hides_are_read_as_utf8(hostile: Path) -> None:
    run = "[:dog:][x]\x1b[2J"
    env = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    for prompt, status in (("ü→", 0), (os.fsdecode(b"\xff"), 2)):
        command = tiny.command("sample", run, "--prompt", prompt, "--json")
        done = subprocess.run(command, capture_output=True, cwd=hostile, env=env)
        told = json.loads(done.stdout.decode("ascii"))
        assert done.returncode == status and (told.get("prompt") == prompt or told["problems"])
