"""Processes that make kernels side by side, and calls of the compiler: both may be killed, hang, or be interrupted.

tinygrad's own pool of processes waits for ever where one of them is killed, as systems do when memory runs out. This
one notices: what was lost is made once more, with one process, and then the run ends with a sentence.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from multiprocessing import connection, current_process, parent_process
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llmspec.backends import shield, tinygrad_private
from llmspec.core.devices import threads
from llmspec.core.problems import RunError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Result = TypeVar("Result")

PATIENCE = 900.0
"""Seconds without any kernel done after which the processes are taken for stuck; a large one takes half a minute."""
KERNELS = "tinygrad.engine.realize"
"""The module that makes a step's kernels; another one searches for faster ones."""
FEW = 8
"""Kernels fewer than these are sooner made in this process than others have started."""
MEMORY = "the system does that when memory runs out: free some, or set LLMSPEC_THREADS=1"
ENDINGS = {
    "SIGKILL": MEMORY,
    "SIGXFSZ": "files may not grow that large here: see `ulimit -f`",
    "SIGXCPU": "processor time is limited here: see `ulimit -t`",
    "SIGSEGV": "it crashed; another one may do: set CC",
    "SIGBUS": "it crashed: is a disk full, or its file damaged?",
    "SIGILL": "it is made for another processor: set CC",
    "SIGABRT": "it crashed; another one may do: set CC",
}
"""What the signals that end a process mean."""
ANYWHERE = None if sys.platform == "win32" else "/"
"""Where compilers run: the folder that this process is in may be gone."""


class CompilerError(RunError):
    """A compiler that was killed, that hangs, or that does not compile what it is given."""


class ToolchainError(RunError):
    """No usable C compiler, or one that failed; the message says what was tried and what to do."""


def call(command: Sequence[str], source: str, seconds: float, environment: dict[str, str] | None = None) -> bytes:
    """What a compiler writes to its standard output for a source; a compiler that is killed is called once more.

    Raises CompilerError, and KeyboardInterrupt within moments of Ctrl-C, with no compiler left behind.
    """
    for last in (False, True):
        status, out, said = _call(command, source, seconds, environment)
        if status == 0:
            return out
        if status > 0 or last or Errand.given_up():
            break
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    shown = "\n".join(lines[:20])
    if status > 0:
        raise CompilerError(f"the compiler does not compile this, with {shlex.join(command)}:\n{shown}")
    ended = _signal(-status)
    raise CompilerError(
        f"the compiler {command[0]} was ended twice by {ended}",
        ENDINGS.get(ended, ""),
        "there would be no kernel to run",
    )


def _call(
    command: Sequence[str], source: str, seconds: float, environment: dict[str, str] | None
) -> tuple[int, bytes, bytes]:
    # In a group of its own: Ctrl-C goes to all of the terminal's group, and would fail kernels that a stop waits for.
    alone: dict[str, Any] = {} if sys.platform == "win32" else {"process_group": 0}
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=ANYWHERE,
            **alone,
        )
    except OSError as error:
        raise CompilerError(f"the compiler {command[0]} cannot be run: {error.strerror or error}") from error
    with child, Errand.calling(child):
        try:
            out, said = child.communicate(source.encode(), timeout=seconds)
            return child.returncode, out, said
        except subprocess.TimeoutExpired:
            raise CompilerError(
                f"the compiler {command[0]} gave no answer within {seconds:.0f} s",
                "is the machine very busy, or the compiler on a slow network folder?",
                "the run would wait forever",
            ) from None
        finally:
            if child.poll() is None:
                _kill(child)


class Errand(threading.Thread, Generic[Result]):
    """`function(*arguments)`, which calls compilers, in a thread of its own that can be ended at any time."""

    def __init__(self, function: Callable[..., Result], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._future: Future[Result] = Future()
        self._function, self._arguments = function, arguments
        self._child: subprocess.Popen[bytes] | None = None
        self._over = False
        self._lock = threading.Lock()
        self.start()

    def run(self) -> None:
        try:
            self._future.set_result(self._function(*self._arguments))
        except BaseException as error:
            self._future.set_exception(error)

    def result(self) -> Result:
        """What the function returned, once it has. Raises what it raised."""
        return self._future.result()

    def give_up(self) -> None:
        """Ends the thread, and its compiler, if it still runs."""
        with self._lock:
            self._over = True
            if self._child is not None:
                _kill(self._child)
        self.join()

    @staticmethod
    @contextlib.contextmanager
    def calling(child: subprocess.Popen[bytes]) -> Iterator[None]:
        """A compiler runs, which ends with the errand that called it, if one did."""
        errand = threading.current_thread()
        if not isinstance(errand, Errand):
            yield
            return
        with errand._lock:
            errand._child = child
            if errand._over:
                _kill(child)
        yield
        with errand._lock:
            errand._child = None

    @staticmethod
    def given_up() -> bool:
        """Whether nobody waits for what this thread does."""
        errand = threading.current_thread()
        return isinstance(errand, Errand) and errand._over


def _kill(child: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        child.kill()
        return
    with contextlib.suppress(ProcessLookupError):  # the whole group: a driver may have started the compiler itself
        os.killpg(child.pid, signal.SIGKILL)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def how_it_ended(status: int, said: str) -> str:
    """Why a process of ours failed, in one line: the signal that ended it, or the last that it said."""
    if status < 0:
        ended = _signal(-status)
        return f"the process was ended by {ended}" + (f"; {ENDINGS[ended]}" if ended in ENDINGS else "")
    last = (said.strip().splitlines() or ["no reason was given"])[-1]
    return "its memory ran out; a smaller model, batch or context needs less" if "MemoryError" in last else last


class Workers:
    """The part of multiprocessing.Pool that tinygrad uses, of processes that are made when the first task comes."""

    def __init__(self, start: Callable[..., None], *arguments: Any) -> None:
        self._start, self._arguments = start, arguments
        self._pool: ProcessPoolExecutor | None = None

    def imap_unordered(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """`function(task)` of each task, in the order in which they end. Raises CompilerError, and what it raises."""
        from concurrent.futures.process import BrokenProcessPool

        left = list(tasks)
        if self._pool is None and len(left) < FEW and function.__module__ == KERNELS:
            yield from map(function, left)
            return
        for count in (threads(), 1):
            done: list[int] = []
            try:
                for number, result in self._results(count, function, left):
                    done.append(number)
                    yield result
                if not _kept:
                    self.end()
                return
            except BrokenProcessPool:
                self.end()
                left = [task for number, task in enumerate(left) if number not in done]
            except BaseException:  # also where the reader of the results stops reading
                self.end()
                raise
        raise CompilerError(
            "a process that makes kernels was ended from outside, twice", MEMORY, "there would be no kernel to run"
        )

    def _results(self, count: int, function: Callable[[Any], Any], tasks: list[Any]) -> Iterator[tuple[int, Any]]:
        from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait

        try:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(count, _Context(), _begin, (self._start, self._arguments))
            with undisturbed():
                futures = {self._pool.submit(function, task): number for number, task in enumerate(tasks)}
        except BrokenExecutor:
            raise
        except (OSError, ImportError, NotImplementedError, RuntimeError):
            # No shared memory here, or as many processes as are allowed: it only takes longer in this one.
            self.end()
            yield from ((number, function(task)) for number, task in enumerate(tasks))
            return
        while futures:
            done = wait(futures, PATIENCE, FIRST_COMPLETED).done
            if not done:
                raise CompilerError(
                    f"no kernel was made within {PATIENCE:.0f} s",
                    "is the machine very busy?",
                    "the run would wait forever",
                )
            for future in done:
                yield futures.pop(future), future.result()

    def end(self) -> None:
        """Ends the processes at once; the next task makes new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            for process in list((getattr(pool, "_processes", None) or {}).values()):
                process.kill()
            pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C waits for the end of this: a process that is left half started prints how Python ended."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    came: list[Any] = []
    signal.signal(signal.SIGINT, lambda *given: came.append(given))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        before(*came[0])


def _begin(start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """In a new process: it ends with its parent, leaves Ctrl-C to it, and opens no device."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    start(*arguments)
    from tinygrad.helpers import Context

    Context(ALLOW_DEVICE_USAGE=0, VIZ=0, TRACK_MATCH_STATS=0).__enter__()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


class _Process(SpawnProcess):
    """A fresh process that does not import the user's main module, whose top level would run again."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with tinygrad_private._without_main():
            return SpawnProcess._Popen(process_obj)


class _Context(SpawnContext):
    Process = _Process


_workers: Workers | None = None
_kept = 0


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While inside, the processes wait for more kernels; elsewhere they end with the last that they were asked for."""
    global _kept
    _kept += 1
    try:
        yield
    finally:
        _kept -= 1
        if not _kept:
            end()


def use(start: Callable[..., None], *arguments: Any) -> None:
    """Has tinygrad make its kernels in processes of ours, each of which calls `start(*arguments)` first."""
    global _workers
    end()
    _workers = Workers(start, *arguments)
    for module in (KERNELS, "tinygrad.codegen.opt.search"):
        shield.when_imported(module, "workers", _take_over)


def end() -> None:
    """Ends the processes, if there are any; they are made anew when they are needed."""
    if _workers is not None:
        _workers.end()


def leave_to_parent() -> list[Any]:
    """In the child of a fork: whatever processes there are stay the parent's. Returns what must not be freed here."""
    held = [_workers._pool] if _workers is not None else []
    if _workers is not None:
        _workers._pool = None
    return held


def _take_over(module: Any) -> None:
    module.get_worker_pool, module.terminate_worker_pool = _chosen, end


def _chosen() -> Workers | None:
    """The processes, or None where kernels are made one after another in this one."""
    from llmspec.backends.tinygrad_private import PARALLEL

    return None if current_process().daemon or PARALLEL.value == 0 or threads() == 1 else _workers
