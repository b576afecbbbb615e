"""What goes wrong in a verb, in plain words and with an exit status; never a traceback, unless it is asked for."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from llmspec.core.problems import KnownInPart, LlmspecError, Problem
from llmspec.render.terminal import OutputLost, PipeClosed, print_json, settle

MISTAKE, BUG, NO_OUTPUT, STOPPED, BROKEN_PIPE = 2, 70, 74, 130, 141
STATUSES = (
    "Exit status: 0 done, 2 a mistake in the input, 70 a bug in llmspec, 74 the output cannot "
    "be written, 130 stopped by Ctrl-C (by another signal: 128 + its number), 141 the output was closed by "
    "its reader (a closed pipe)."
)
TRACEBACK = "LLMSPEC_TRACEBACK"
LIBRARIES = {
    ("safetensors", "SafetensorError"): "a file of weights is damaged, or cannot be written",
    ("zlib", "error"): "a compressed file is damaged",
    ("lzma", "LZMAError"): "a compressed file is damaged",
    ("zipfile", "BadZipFile"): "an archive is damaged",
    ("sqlite3", ""): "tinygrad's cache of kernels, an SQLite database, cannot be used",
    ("yaml", ""): "a YAML text cannot be read",
    ("json", "JSONDecodeError"): "a JSON file is damaged",
}
"""Exceptions of libraries by module and name ('' for all): what of a user's is wrong."""
LOWER = {
    "run": "a smaller phases.PHASE.micro_batch_size (with more gradient_accumulation_steps), model.context or model; "
    "`llmspec explain SPEC` says what takes how much",
    "sample": "a smaller --n or decoding.max_tokens",
    "rank": "a smaller --n or decoding.max_tokens",
    "chat": "a smaller decoding.max_tokens, or a model with a shorter context",
    "embed": "fewer or shorter texts at once",
    "check": "a smaller model, or leave out --exact, --graph, --data",
    "explain": "a smaller model, or leave out --exact",
    "bench": "a smaller model or batch, as in --set model.layers=2",
    "new": "a folder with fewer or smaller files",
    "import": "a smaller model, or a machine with more memory",
    "merge": "a smaller model, or a machine with more memory",
    "export": "a smaller model, or a machine with more memory",
    "gc": "fewer runs at once, as in `llmspec gc runs/NAME`",
}


@dataclass
class Failure:
    """An exit status, and what to say."""

    status: int
    problems: tuple[Problem, ...] = ()
    told: bool = False
    """Said already, on the terminal."""
    known: dict[str, Any] = field(default_factory=dict)
    """What stands beside it in JSON."""


class Ended(SystemExit):
    """The end of a verb that has said why."""


class Answer:
    """Where a verb's JSON goes, while everything else that is printed goes to standard error."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def __call__(self, value: Any, indent: int | None = 1) -> None:
        print_json(value, self.file, indent)


@contextmanager
def failures(verb: str, as_json: bool = False) -> Iterator[Answer]:
    """Turns whatever ends a verb into words on standard error, or `as_json` into one document on standard output, and
    Ended with its status."""
    real = sys.stdout
    answer = Answer(real)
    if as_json:  # also for what a library may print
        sys.stdout = sys.stderr
    try:
        yield answer
        real.flush()
    except (Exception, KeyboardInterrupt) as error:
        failure = explained(error, verb)
        sys.stdout = real
        settle()
        tell(failure, answer if as_json and not isinstance(error, OutputLost) else None)
        raise Ended(failure.status) from None
    finally:
        sys.stdout = real


def tell(failure: Failure, answer: Answer | None = None) -> None:
    """Says what went wrong; quietly where standard error is gone as well."""
    try:
        if answer:
            said = {"ok": False, "status": failure.status, "problems": [asdict(p) for p in failure.problems]}
            answer({**failure.known, **said}, None)
        elif not failure.told:
            from llmspec.render.problems import show

            show(failure.problems)
    except OutputLost:
        settle()


def explained(error: BaseException, verb: str = "") -> Failure:
    """What an exception means to the person who gave the command."""
    if os.environ.get(TRACEBACK, "") not in ("", "0"):
        from llmspec.render.terminal import err

        with suppress(OutputLost):
            err(soft_wrap=True).print("".join(traceback.format_exception(error)))
    name, module = type(error).__name__, type(error).__module__
    if isinstance(error, LlmspecError) and (error.problems or not verb):
        return Failure(MISTAKE, error.problems, known=error.known if isinstance(error, KnownInPart) else {})
    if isinstance(error, OutputLost):
        status = BROKEN_PIPE if isinstance(error, PipeClosed) else NO_OUTPUT
        return Failure(status, (Problem(str(error)),), error.told)
    if isinstance(error, KeyboardInterrupt):
        return Failure(STOPPED, (Problem(str(error) or "stopped"),))
    if name == "Interrupted" and module.startswith("llmspec"):
        return Failure(getattr(error, "status", STOPPED), (Problem(str(error)),), told=getattr(error, "told", True))
    if module.startswith("pydantic") and hasattr(error, "errors"):
        return Failure(
            MISTAKE, tuple(Problem(f"{e['msg']} (given: {e['input']!r})", tuple(e["loc"])) for e in error.errors())
        )
    if isinstance(error, MemoryError):
        doing = f" in `llmspec {verb}`" if verb else ""
        return Failure(
            MISTAKE,
            (Problem(f"out of memory{doing}" + (f": {error}" if str(error) else ""), hint=LOWER.get(verb, "")),),
        )
    if isinstance(error, RecursionError):
        return Failure(MISTAKE, (Problem("the input is nested deeper than can be read"),))
    if isinstance(error, OSError) and (error.filename is not None or error.errno):
        return Failure(MISTAKE, (Problem(_system(error)),))
    if module.startswith("llmspec") and str(error):
        return Failure(MISTAKE, (Problem(str(error)),))
    return _library(error) or _bug(error)


def _system(error: OSError) -> str:
    """What the operating system refused, and where."""
    why = error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {why}" if isinstance(error.filename, str | bytes) else why


def _library(error: BaseException) -> Failure | None:
    home, name = type(error).__module__.split(".")[0], type(error).__name__
    what = LIBRARIES.get((home, name), LIBRARIES.get((home, "")))
    return Failure(MISTAKE, (Problem(f"{what}: {name}: {error}"),)) if what else None


def _bug(error: BaseException) -> Failure:
    """A mistake of ours: short, with the traceback in a file."""
    kept = _keep(error)
    hint = (
        f"please report it, with {kept}, which says where it happened"
        if kept
        else f"please report it, with what the same command prints after {TRACEBACK}=1"
    )
    return Failure(
        BUG,
        (
            Problem(
                f"a bug in llmspec: {type(error).__name__}: {error}",
                hint=hint,
                consequence="nothing in your input is known to be wrong",
            ),
        ),
    )


def _keep(error: BaseException) -> Path | None:
    """The file that holds the traceback; None where none can be written."""
    from llmspec.core.folders import cache_dir

    text = f"{sys.argv}\nPython {sys.version} on {sys.platform}\n\n{''.join(traceback.format_exception(error))}"
    try:
        folder = cache_dir() / "tracebacks"
        folder.mkdir(exist_ok=True)
        path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
        path.write_text(text, "utf-8", "backslashreplace")
    except Exception:  # whatever is wrong with the cache, it is not what is to be said now
        return None
    return path
