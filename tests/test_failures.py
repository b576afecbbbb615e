"""However a verb ends: words on standard error, or one JSON document, and a status that `--help` lists."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
import tiny
from pydantic import TypeAdapter, ValidationError
from rich.errors import MarkupError
from safetensors import SafetensorError
from terminals import environment, shell
from typer.core import TyperCommand
from typer.main import get_command

from llmspec.backends.workers import undisturbed
from llmspec.cli import answered, failures
from llmspec.cli.app import app
from llmspec.core.problems import SpecError
from llmspec.render.terminal import OutputLost, PipeClosed
from llmspec.training.stop import Interrupted

VERBS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
NEEDED = {
    verb: ["a.yaml" for p in made.params if p.param_type_name == "argument" and p.required]
    for verb, made in VERBS.items()
}
JSON = [verb for verb, made in VERBS.items() if any(p.name == "json_" for p in made.params)]


def invalid() -> ValidationError:
    try:
        TypeAdapter(int).validate_python("x")
    except ValidationError as e:
        return e
    raise AssertionError


ENDS: list[tuple[BaseException, int]] = [
    (SpecError("wrong", hint="right"), 2),
    (KeyboardInterrupt(), 130),
    (Interrupted("pretrain", 3), 130),
    (MemoryError(), 2),
    (MemoryError("Unable to allocate 9 TiB"), 2),
    (RecursionError("maximum recursion"), 2),
    (invalid(), 2),
    (PipeClosed(BrokenPipeError(errno.EPIPE, "Broken pipe")), 141),
    (OutputLost(OSError(errno.ENOSPC, "No space left on device")), 74),
    (SafetensorError("InvalidHeader"), 2),
    (zlib.error("Error -3"), 2),
    (sqlite3.OperationalError("disk I/O error"), 2),
    (json.JSONDecodeError("x", "y", 0), 2),
    (OSError(errno.EIO, "I/O error"), 2),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "a\x1b[2Jb"), 2),
    (OverflowError("int too large"), 70),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), 70),
    (MarkupError("closing tag '[/x]'"), 70),
    (KeyError("[/x]\x1b[2J"), 70),
    (AssertionError(), 70),
    (Exception(), 70),
]


@pytest.mark.parametrize("as_json", [False, True], ids=["words", "json"])
@pytest.mark.parametrize(("error", "status"), ENDS, ids=lambda x: type(x).__name__)
def test_every_end_is_a_sentence_and_a_status(
    error: BaseException, status: int, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    def fail(self: Any, ctx: Any) -> None:
        print("a library says something")
        raise error

    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TyperCommand, "invoke", fail)
    for verb in JSON if as_json else VERBS:
        with pytest.raises(SystemExit) as ended:
            answered([verb, *NEEDED[verb], *(["--json"] if as_json else [])])
        said = capsys.readouterr()
        assert ended.value.code == status and "Traceback" not in said.err
        assert f"{status} " in failures.STATUSES and not re.search(r"\x1b\[2J", said.out + said.err)
        if as_json and not isinstance(error, OutputLost):
            told = json.loads(said.out)
            assert not told["ok"] and told["status"] == status and told["problems"][0]["message"]
        elif not isinstance(error, Interrupted):  # told by the watcher, with the command that goes on
            assert said.err.strip() and "None" not in said.err
        kept = list((tmp_path / "cache").rglob("*.txt"))
        texts = [file.read_text("utf-8") for file in kept]
        for file in kept:  # the next verb's has another name in another second
            file.unlink()
        assert bool(kept) == (status == 70)
        if kept:
            where = said.out if as_json else said.err
            assert "a bug in llmspec" in where and any(str(file) in where.replace("\n", "") for file in kept)
            assert "Traceback" in texts[0] and type(error).__name__ in texts[0]


def test_memory_that_does_not_suffice_names_what_to_lower() -> None:
    for verb in failures.LOWER:
        problem = failures.explained(MemoryError(), verb).problems[0]
        assert "memory" in problem.message and verb in problem.message and problem.hint
    assert set(failures.LOWER) == set(VERBS) - {"schema"}


def test_a_traceback_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("LLMSPEC_TRACEBACK", "1")
    failures.explained(SpecError("wrong"))
    assert "SpecError: wrong" in capsys.readouterr().err


def test_a_mistake_of_ours_is_told_also_where_no_traceback_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for cache in ("/dev/null/x", str(tmp_path / "file"), "a\0b"):
        monkeypatch.setattr("os.environ", {**os.environ, "LLMSPEC_CACHE": cache})
        failure = failures.explained(KeyError("x"), "check")
        assert failure.status == 70 and "LLMSPEC_TRACEBACK=1" in failure.problems[0].hint


def test_statuses_are_in_the_help() -> None:
    said = " ".join(tiny.call("--help", COLUMNS="200").stdout.split())
    assert failures.STATUSES in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--json"),
        ("sample", "a", "b", "--json"),
        ("trian", "--json"),
        ("check", "x.yaml", "--no", "--json"),
        ("explain", "--top", "99", "--json"),
        ("bench", "no.yaml", "--json"),
        ("explain", "a.yaml", "--seed=1", "--json"),
        ("check", "a.yaml", "--set=name", "--json"),
        ("--json",),
        ("check", "--json", "--device=abacus", "quickstart"),
        ("sample", "--prompt=x", "--json"),
        ("explain", "runs", "--json"),
    ],
    ids=" ".join,
)
def test_json_is_one_document_also_of_a_mistake(
    arguments: tuple[str, ...], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = answered(list(arguments))
    except SystemExit as e:
        status = int(str(e.code))
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert status == 2 == told["status"] and not told["ok"] and told["problems"] and not said.err


# -- outputs that are gone -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments", ["schema", "explain quickstart --part model.mlp", "--help", "check quickstart"])
def test_an_output_that_is_gone_is_told_on_the_other(arguments: str, tmp_path: Path) -> None:
    for way, status in (("| true; exit ${PIPESTATUS[0]}", 141), ("> /dev/full", 74), (">&-", 74)):
        done = shell(f"$LLMSPEC {arguments} {way}", tmp_path)
        assert done.returncode == status and not done.stdout, (way, done.stderr)
        said = tiny.unhurried(done.stderr)
        assert said.count("\n") == 1 and "Traceback" not in said and "Exception" not in said
        assert ("nobody reads the output" if status == 141 else "the output cannot be written") in said


def test_both_outputs_gone_and_no_input(tmp_path: Path) -> None:
    done = shell(
        "$LLMSPEC schema >/dev/full 2>&1; echo $?; $LLMSPEC schema <&- 2>&- | head -c 2; "
        "$LLMSPEC check no.yaml >&- 2>&- <&-; echo $?",
        tmp_path,
    )
    assert done.stdout.split() == ["74", "{", "74"] and not done.stderr


def test_a_run_whose_reader_ends_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    spec = tiny.write(tmp_path, name="it's.yaml")
    more = "--out 'o ut' --set phases.pretrain.budget='9000 steps' --set phases.pretrain.checkpoint_every='5000 steps'"
    done = shell(f"$LLMSPEC run \"{spec.name}\" {more} | grep -m1 'pretrain 1/'; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 141, done.stderr
    assert "everything is saved" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "o ut" / "pretrain").glob("step_*"))
    again = done.stderr[done.stderr.index("llmspec run") :].strip().removeprefix("llmspec ")
    done = shell(f"$LLMSPEC {again} | grep -m1 'resumes'; exit 0", tmp_path)
    assert "resumes after step" in done.stdout, done.stderr


# -- Ctrl-C --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "module"),
    [
        (["--help"], "typer"),
        (["schema"], "llmspec.cli.app"),
        (["check", "quickstart"], "pydantic"),
        (["check", "quickstart", "--data"], "numpy"),
        (["explain", "quickstart"], "llmspec.data.prepare"),
        (["bench", "--json"], "llmspec.bench.run"),
        (["sample"], "llmspec.runs.run"),
        (["run", "quickstart"], "rich.live"),
        (["schema"], "rich.console"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else x,
)
def test_ctrl_c_while_anything_is_imported(arguments: list[str], module: str, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "class Press:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: sys.meta_path.remove(press); os.kill(os.getpid(), 2)\n"
        "press = Press(); sys.meta_path.insert(0, press)\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "from llmspec.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(LLMSPEC_CACHE=os.environ.get("LLMSPEC_CACHE", str(tmp_path / "cache"))),
    )
    assert done.returncode == 130, done.stderr
    # What takes a second on a busy machine may be said before.
    told = done.stderr.strip().splitlines()[-1:]
    said = json.loads(done.stdout)["problems"][0]["message"] if "--json" in arguments else "".join(told)
    assert said.startswith("stopped") and "Traceback" not in done.stderr


def test_the_status_is_that_of_a_stop_also_where_python_would_end_by_the_signal(tmp_path: Path) -> None:
    """A KeyboardInterrupt inside `exec` makes `python -m` kill itself at its end, even if it was caught."""
    (tmp_path / "pressed.py").write_text(
        "import sys, llmspec.cli.verb\n"
        "def invoke(self, ctx):\n"
        "    exec('import os; os.kill(os.getpid(), 2); [0 for _ in range(10**6)]')\n"
        "llmspec.cli.verb.TyperCommand.invoke = invoke\n"
        "sys.argv[1:] = ['schema']\n"
        "from llmspec.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pressed"], capture_output=True, text=True, cwd=tmp_path, env=environment()
    )
    assert done.returncode == 130 and done.stderr.strip() == "stopped", (done.returncode, done.stderr)


def test_no_failure_is_silent() -> None:
    for error in (SpecError(()), RuntimeError()):
        failure = failures.explained(error, "check")
        assert failure.status == 70 and failure.problems


def test_ctrl_c_waits_while_processes_are_started() -> None:
    import signal

    before, done = signal.getsignal(signal.SIGINT), []

    def start() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("started")

    with pytest.raises(KeyboardInterrupt), undisturbed():
        start()
    assert done and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ZeroDivisionError), undisturbed():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before
