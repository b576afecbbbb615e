"""Finding a C compiler that tinygrad's CPU device can use: the candidates, the probe, and the memory of probes.

tinygrad runs one program with clang's flags, C on its stdin, and reads an ELF object from its stdout, on every
system. A compiler that does not do exactly that (gcc, for one) is of no use, so each candidate has to show it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmspec.core.devices import machine, processor
from llmspec.core.folders import read_private, write_atomically

PROBE_SOURCE = "void probe(float* restrict a, float* restrict b) { for (int i = 0; i < 64; i++) a[i] += b[i]; }\n"
PROBE_SECONDS = 60  # a cold binary of 170 MB on a slow disk takes a while
CLANG_VERSIONS = range(40, 10, -1)
ELF_MACHINES = {"x86_64": 62, "arm64": 183, "riscv64": 243}
MEMORY_FILE, MEMORY_FORMAT, MEMORY_ENTRIES = "compilers.json", 1, 64


class Rejected(Exception):
    """A candidate that does not do. `lasting` is false where another try might go differently."""

    def __init__(self, reason: str, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True)
class Candidate:
    """A way to call a compiler: `command` is the program (absolute where it was found) and what always follows it."""

    kind: str  # 'CC', 'clang' or 'zig'
    command: tuple[str, ...]

    @property
    def label(self) -> str:
        return ("CC=" if self.kind == "CC" else "") + shlex.join(self.command)


def native_flags() -> tuple[str, ...]:
    """The flags by which clang uses everything that this processor has."""
    flags = {"x86_64": ("-march=native",), "arm64": ("-ffixed-x18", "-mcpu=native"), "riscv64": ("-march=rv64g",)}
    return flags.get(machine(), ())


def object_flags() -> tuple[str, ...]:
    """tinygrad 0.14's own flags for a kernel on this machine."""
    kernel = ["-c", "-x", "c", "-O2", "-fPIC", "-ffreestanding", "-fno-math-errno", "-nostdlib", "-fno-ident"]
    return (*kernel, f"--target={machine()}-none-unknown-elf", *native_flags())


def candidates(user_cc: str | None) -> Iterator[Candidate]:
    """Yield what may be a usable compiler, best first: the user's CC, clang on the PATH, clang inside zig."""
    if user_cc:
        yield Candidate("CC", _words(user_cc))
    for name in ("clang", *(f"clang-{version}" for version in CLANG_VERSIONS)):
        if found := shutil.which(name):
            yield Candidate("clang", (os.path.abspath(found),))
    # `zig clang` is the unmodified clang driver: no flags to rewrite, and 24 ms a kernel where `zig cc` takes 38.
    for zig in (_packaged_zig(), shutil.which("zig")):
        if zig:
            yield Candidate("zig", (os.path.abspath(zig), "clang"))


def probe(candidate: Candidate) -> str:
    """Compile a line of C as tinygrad would; return the compiler's version, one line.

    Raises:
        Rejected: with the reason, for people.
    """
    made = _run([*candidate.command, *object_flags(), "-", "-o", "-"], PROBE_SOURCE)
    _check_object(made)
    lines = _run([*candidate.command, "--version"]).decode(errors="replace").splitlines()
    return lines[0].strip() if lines else "unknown version"


def fingerprint(candidate: Candidate) -> str:
    """A key under which a verdict holds: it changes with the files called, the flags and the processor.

    Raises:
        Rejected: the program is not there.
    """
    files = []
    for word in candidate.command:
        try:
            status = os.stat(word)
            files.append((word, status.st_mtime_ns, status.st_size))
        except OSError:
            files.append((word, 0, 0))
    if not files[0][2]:
        raise Rejected("no such program")
    return digest(candidate.kind, files, object_flags(), processor(), PROBE_SOURCE)


def digest(*what: Any) -> str:
    """A short hash of plain values, the same in every process."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


class Memory:
    """Verdicts of earlier probes, in one JSON file: {fingerprint: {"version": text} or {"reason": text}}.

    A file that is missing, damaged or not to be read counts as empty; what cannot be written is forgotten.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MEMORY_FILE
        self.verdicts = self._read()

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            held = json.loads(read_private(self.path))
            if held["format"] != MEMORY_FORMAT:
                return {}
            texts = lambda v: isinstance(v, dict) and all(isinstance(text, str) for text in v.values())
            return {str(k): v for k, v in held["verdicts"].items() if texts(v) and ("version" in v or "reason" in v)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}

    def keep(self, key: str, verdict: dict[str, str]) -> None:
        # Two processes at once may each lose the other's verdict, which costs one more probe and nothing else.
        self.verdicts = {**self._read(), key: verdict}
        newest = dict(list(self.verdicts.items())[-MEMORY_ENTRIES:])
        text = json.dumps({"format": MEMORY_FORMAT, "verdicts": newest}, indent=1)
        with contextlib.suppress(OSError):
            write_atomically(self.path, text.encode(), 0o600)


def _words(user_cc: str) -> tuple[str, ...]:
    # A path with a space in it is one word if it is there; otherwise CC may be a command such as "ccache clang".
    try:
        words = [user_cc] if shutil.which(user_cc) else shlex.split(user_cc) or [user_cc]
    except ValueError:
        words = [user_cc]
    found = [shutil.which(word) if not word.startswith("-") else None for word in words]
    return tuple(os.path.abspath(path) if path else word for path, word in zip(found, words, strict=True))


def _packaged_zig() -> str | None:
    # Found without importing it, and called directly: `python -m ziglang` costs 25 ms a kernel.
    try:
        spec = importlib.util.find_spec("ziglang")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = os.path.join(folder, "zig.exe" if sys.platform == "win32" else "zig")
        if os.path.isfile(binary):
            return os.path.abspath(binary)
    return None


def _run(command: list[str], stdin: str = "") -> bytes:
    import subprocess

    try:
        done = subprocess.run(
            command,
            input=stdin.encode(),
            capture_output=True,
            timeout=PROBE_SECONDS,
            cwd=None if sys.platform == "win32" else "/",
        )
    except subprocess.TimeoutExpired:
        raise Rejected(f"no answer within {PROBE_SECONDS} s", lasting=False) from None
    except OSError as error:
        raise Rejected(f"could not be run: {error.strerror or error}", lasting=False) from None
    if done.returncode < 0:  # killed, e.g. where memory ran out
        raise Rejected(f"ended by signal {-done.returncode}", lasting=False)
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        first = next((line for line in said if "error" in line), said[0] if said else f"exit status {done.returncode}")
        raise Rejected(first.strip()[:200])
    return done.stdout


def _check_object(made: bytes) -> None:
    if made[:4] != b"\x7fELF" or len(made) < 64:
        raise Rejected("wrote no ELF object to stdout")
    wanted = ELF_MACHINES.get(machine())
    if wanted is not None and int.from_bytes(made[18:20], "little") != wanted:
        raise Rejected(f"wrote an object for another machine than {machine()}")
