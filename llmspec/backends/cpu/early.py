"""The C functions' source and their compiler's work, which begins before anybody needs the functions.

Nothing here imports tinygrad: its import, and the reading of data, go on beside the compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from llmspec.backends.cpu.toolchain import Toolchain, prepare
from llmspec.backends.workers import Errand
from llmspec.core.problems import RunError, one_of

SOURCES = Path(__file__).with_name("c")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()
FLAGS = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", *WIDE)
"""What lets clang vectorise the sums; nothing that assumes away NaN or infinity."""
INSTRUCTIONS = "LLMSPEC_INSTRUCTIONS"
"""For tests: the instructions that the functions are compiled for, by a name below, instead of all that are here."""
SETS: dict[str, tuple[str, ...]] = {"": ()}
if WIDE:
    SETS |= {"avx2": ("-march=haswell",), "sse": ("-march=nehalem",)}


@functools.cache
def source() -> str:
    """All C files as one translation unit, so that the compiler sees every function; its messages name the files."""
    seen: set[str] = set()
    return "\n".join(_included(path, seen) for path in sorted(SOURCES.glob("*.c")))


def _included(path: Path, seen: set[str]) -> str:
    """A file's text with each header of ours in the place of its first #include: a compiler reads it from a pipe."""
    lines = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        header = re.fullmatch(r'#include "(\w+\.h)"', line)
        if header is None:
            lines.append("" if line == "#pragma once" else line)
        elif header[1] not in seen:
            seen.add(header[1])
            lines += [_included(SOURCES / header[1], seen), f'#line {number + 1} "{path.name}"']
        else:
            lines.append("")
    return "\n".join(lines)


def instructions() -> str:
    """What LLMSPEC_INSTRUCTIONS names, or nothing. Raises RunError for a name that is not in SETS."""
    asked = os.environ.get(INSTRUCTIONS, "")
    if asked not in SETS:
        raise RunError(f"{INSTRUCTIONS}={asked} names no set of instructions", one_of(asked, filter(None, SETS)))
    return asked


_begun: list[Errand[Path]] = []


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Within this, the functions are being compiled beside whatever else goes on; no compiler is left afterwards.

    What fails is raised by `load`, where the functions are needed.
    """
    errand = Errand(_compile, prepare())
    _begun.append(errand)
    try:
        yield
    finally:
        _begun.remove(errand)
        errand.give_up()


def load() -> ctypes.CDLL:
    """The compiled functions, in this process. Raises ToolchainError."""
    toolchain = prepare()
    return toolchain.loaded(_begun[-1].result() if _begun else _compile(toolchain))


def _compile(toolchain: Toolchain) -> Path:
    return toolchain.shared_library(source(), "native", (*FLAGS, *SETS[instructions()]))
