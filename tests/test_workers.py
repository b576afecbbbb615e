"""Compilers and processes that make kernels may be killed, hang, or be interrupted: the run hears of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from llmspec.backends import workers
from llmspec.backends.workers import CompilerError, Workers, call

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def begin(*arguments: object) -> None:
    """What the processes of a test call first."""


def double(task: tuple[int, str]) -> int:
    """Twice the number; where a folder is named, the process is killed as often as it holds files."""
    number, folder = task
    for file in sorted(Path(folder).iterdir() if folder else ()):
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def fail(task: int) -> int:
    raise CompilerError(f"kernel {task} is no kernel", "a hint")


def sleep(task: int) -> int:
    time.sleep(60)
    return task


@pytest.fixture(autouse=True)
def nobody_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process of a user's: the tests' own keep the processes (conftest.py)."""
    monkeypatch.setattr(workers, "_kept", 0)


@pytest.fixture
def pool() -> Workers:
    return Workers(begin, 1)


def test_killed_once_what_was_lost_is_made_again(pool: Workers, tmp_path: Path) -> None:
    (tmp_path / "1").touch()
    tasks = [(n, str(tmp_path) if n == 3 else "") for n in range(20)]
    assert sorted(pool.imap_unordered(double, tasks)) == [2 * n for n in range(20)]
    assert pool._pool is None, "nothing waits for more where nobody asked for that"


def test_killed_twice_is_a_sentence(pool: Workers, tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / str(n)).touch()
    with pytest.raises(CompilerError, match="ended from outside, twice") as told:
        list(pool.imap_unordered(double, [(1, str(tmp_path)), (2, "")]))
    assert "memory" in told.value.problems[0].hint


def test_what_a_process_raises_arrives_whole(pool: Workers) -> None:
    with pytest.raises(CompilerError, match="kernel 7 is no kernel") as told:
        list(pool.imap_unordered(fail, [7]))
    assert told.value.problems[0].hint == "a hint"


def test_ctrl_c_is_heard_at_once(pool: Workers) -> None:
    import threading

    threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(pool.imap_unordered(sleep, [1, 2]))
    assert time.monotonic() - start < 20


def test_processes_that_hang_are_noticed(pool: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 2.0)
    with pytest.raises(CompilerError, match="no kernel was made within 2 s"):
        list(pool.imap_unordered(sleep, [1]))


@pytest.mark.parametrize(
    "error",
    [
        OSError(38, "Function not implemented"),
        ImportError("no semaphores"),
        RuntimeError("can't start new thread"),
        BlockingIOError(11, "try again"),
    ],
)
def test_where_no_process_can_be_started_this_one_does_it(
    pool: Workers, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def none(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", none)
    assert list(pool.imap_unordered(double, [(n, "") for n in range(9)])) == [2 * n for n in range(9)]


def test_processes_end_with_their_parent() -> None:
    code = (
        "import sys, time; sys.path.insert(0, 'tests')\n"
        "from test_workers import begin, sleep; from llmspec.backends.workers import Workers\n"
        "pool = Workers(begin); it = pool._results(1, sleep, [1])\n"
        "import threading; threading.Timer(3, lambda: print(*pool._pool._processes, flush=True)).start()\n"
        "next(it)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tiny.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        try:
            if Path(f"/proc/{child}/stat").exists() and " Z " in Path(f"/proc/{child}/stat").read_text():
                return
            os.kill(child, 0)
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.1)
    pytest.fail("it lives on")


# -- one compiler ------------------------------------------------------------------------------------------------------
def test_a_compiler_that_is_killed_is_called_once_more(tmp_path: Path) -> None:
    script = f'if [ -e "{tmp_path}/x" ]; then cat; else touch "{tmp_path}/x"; kill -9 $$; fi'
    assert call(["sh", "-c", script], "source", 20) == b"source"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -9 $$", "ended twice by SIGKILL"),
        ("echo 'line 1: error: no such thing' >&2; exit 1", "error: no such thing"),
        ("sleep 60", "no answer within 1 s"),
        ("sleep 60 & wait", "no answer within 1 s"),
    ],
)
def test_a_compiler_that_fails_is_a_sentence(script: str, said: str) -> None:
    start = time.monotonic()
    with pytest.raises(CompilerError, match=said):
        call(["sh", "-c", script], "source" * 100_000, 1)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize(
    ("number", "hint"), [("KILL", "memory"), ("XFSZ", "ulimit -f"), ("SEGV", "crashed"), ("USR1", "")]
)
def test_the_hint_fits_the_signal(number: str, hint: str) -> None:
    with pytest.raises(CompilerError, match=f"SIG{number}") as told:
        call(["sh", "-c", f"kill -{number} $$"], "", 20)
    assert hint in told.value.problems[0].hint and (hint or not told.value.problems[0].hint)


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (-9, "", "ended by SIGKILL; the system does that when memory runs out"),
        (-10, "words", "ended by SIGUSR1"),
        (1, "Traceback\n  File\nMemoryError", "memory ran out"),
        (1, "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 9 TiB", "memory ran out"),
        (1, "Traceback\nValueError: x is y\n", "ValueError: x is y"),
        (1, "", "no reason was given"),
        (-99, "", "ended by signal 99"),
    ],
)
def test_how_a_process_ended_is_said_in_words(status: int, said: str, told: str) -> None:
    assert told in workers.how_it_ended(status, said)


def test_a_compiler_runs_where_the_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert call(["sh", "-c", "cat; pwd"], "source in ", 20) == b"source in /\n"


def test_a_compiler_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(CompilerError, match="/nonexistent cannot be run: No such file"):
        call(["/nonexistent"], "", 1)


def test_ctrl_c_of_the_terminal_reaches_the_program_and_not_the_compiler(tmp_path: Path) -> None:
    """The terminal's Ctrl-C goes to a whole group; the program decides when its compilers end."""
    code = (
        "import os, signal, threading; from llmspec.backends.workers import call\n"
        "heard = []; signal.signal(signal.SIGINT, lambda *a: heard.append(1))\n"
        "threading.Timer(1, os.killpg, (os.getpgrp(), signal.SIGINT)).start()\n"
        "print(call(['sh', '-c', 'sleep 2; cat'], 'source', 20), heard)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
        timeout=60,
    )
    assert done.stdout.strip() == "b'source' [1]", done.stderr


def test_a_run_whose_compilers_are_killed_ends_with_a_sentence(tmp_path: Path) -> None:
    killer = tmp_path / "clang"
    found = "from llmspec.backends.cpu.toolchain import prepare; import shlex; print(shlex.join(prepare().command))"
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT), "CC": ""}
    real = subprocess.run([sys.executable, "-c", found], text=True, capture_output=True, env=env, check=True).stdout
    killer.write_text(f'#!/bin/sh\ncase "$*" in *-shared*) kill -9 $$;; esac\nexec {real.strip()} "$@"\n')
    killer.chmod(0o755)
    done = tiny.call("run", tiny.write(tmp_path), cwd=tmp_path, CC=str(killer), LLMSPEC_CACHE=str(tmp_path / "cache"))
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2 and "Traceback" not in said and "was ended twice by SIGKILL" in said
    assert "memory" in said and "native could not be compiled" in said
