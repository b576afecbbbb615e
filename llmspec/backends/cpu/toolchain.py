"""Making tinygrad's CPU device work on a machine as it comes, and a C compiler for small libraries of our own.

After `prepare()`, `Tensor` operations on the CPU find their compiler and keep their compiled kernels in a database of
their own. The environment of this process, and of those that it starts, stays as it is.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmspec.backends import kernel_database, shield, workers
from llmspec.backends.cpu.compilers import (
    Candidate,
    Memory,
    Rejected,
    candidates,
    digest,
    fingerprint,
    machine,
    native_flags,
    object_flags,
    probe,
    processor,
)
from llmspec.backends.workers import ToolchainError
from llmspec.core.folders import CACHE_VARIABLE, ELSEWHERE, cache_dir, private_folder, read_private, write_atomically
from llmspec.core.problems import RunError

LIBRARIES, ZIG = "libraries", "zig"
KERNEL_SECONDS, LIBRARY_SECONDS = 300, 300
"""As long as a compiler may take for one kernel, and for a library, before it is taken for stuck."""
REMEDIES = (
    "pip install ziglang                 (a whole clang as a Python package, any system)",
    "apt-get install clang               (Debian, Ubuntu)",
    "xcode-select --install              (macOS)",
    "export CC=/path/to/clang            (a clang somewhere else; gcc does not do)",
)


@dataclass(frozen=True)
class Toolchain:
    """A compiler that tinygrad's CPU device can use, found and tried."""

    kind: str  # 'CC' (the user's), 'clang' (on the PATH) or 'zig' (the clang inside zig)
    version: str  # the compiler's own first line about itself
    identity: str  # hash of compiler, version, flags, processor and tinygrad's version
    command: tuple[str, ...] = field(repr=False)  # the compiler itself, with the arguments that always come first
    cache: Path = field(repr=False)
    passed_over: tuple[str, ...] = ()  # candidates that came first and did not do, each with the reason

    def shared_library(self, source: str, name: str, flags: tuple[str, ...] = ()) -> Path:
        """Compile C `source` for this processor into a shared library, once; return its path.

        Functions of the C and mathematics libraries may be used: they resolve in the loading process. A library that
        an earlier process made is taken if it is whole and nobody else can have written it, and made anew otherwise.

        Args:
            source: C, complete.
            name: the first part of the file's name: letters, digits, '_' and '-'.
            flags: more flags, e.g. `("-ffast-math",)`.

        Raises:
            ToolchainError: with the compiler's own message, or where the cache folder cannot be written.
        """
        command = self._library_command(flags)
        try:
            folder = private_folder(self.cache / LIBRARIES)
            note = folder / f"{name}-{digest(source, self.identity, command)}.json"
            return _whole_library(note) or _keep_library(note, name, self._made_library(command, source, name, folder))
        except OSError as error:
            raise _unusable(error) from error

    def loaded(self, path: Path) -> ctypes.CDLL:
        """A shared library, loaded into this process. Raises ToolchainError."""
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            why = "it lies on a file system that is mounted noexec" if _mounted_noexec(path) else str(error)
            raise ToolchainError(
                f"{path} cannot be loaded: {why}",
                f"set {CACHE_VARIABLE} to a folder on another file system",
                "the C functions that train and decode would be missing",
            ) from error

    def _made_library(self, command: list[str], source: str, name: str, folder: Path) -> bytes:
        import tempfile

        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as place:
            made = Path(place) / "made.so"
            try:
                workers.call([*command, "-", "-o", str(made)], source, LIBRARY_SECONDS, self._environment())
                return made.read_bytes()
            except workers.CompilerError as error:
                told = error.problems[0]
                full = "nospaceleft" in told.message.lower().replace(" ", "")
                raise ToolchainError(
                    f"{name} could not be compiled: {told.message}",
                    f"make room there, or {ELSEWHERE}" if full else told.hint,
                    "the C functions that train and decode would be missing",
                ) from error

    def _library_command(self, flags: tuple[str, ...]) -> list[str]:
        common = ["-x", "c", "-O3", *native_flags(), "-fno-math-errno", "-shared", "-fPIC", *flags]
        if self.kind == "zig":
            # The plain driver has no linker and no headers; `zig cc` brings them, with sanitizers that are not wanted.
            # -nostdlib: it would build stubs of the C library for 7 s; the loading process has the real one.
            return [self.command[0], "cc", *common, "-g0", "-fno-sanitize=all", "-fno-stack-protector", "-nostdlib"]
        return [*self.command, *common, "-lm"]

    def _environment(self) -> dict[str, str]:
        zig = private_folder(self.cache / ZIG) if self.kind == "zig" else self.cache
        return {**os.environ, "ZIG_GLOBAL_CACHE_DIR": str(zig), "ZIG_LOCAL_CACHE_DIR": str(zig)}


_prepared: dict[tuple[str, ...], Toolchain] = {}


def prepare(cache: Path | None = None) -> Toolchain:
    """Find a compiler and have tinygrad's CPU device use it, whether it is imported already or later.

    Cheap when called again, and about 1 ms when an earlier process has probed the same compiler. A CACHEDB that the
    user has set is left alone. tinygrad is not imported.

    Args:
        cache: the folder for kernels and libraries; by default `cache_dir()`.

    Raises:
        ToolchainError: no candidate works.
        CacheError: the cache folder cannot be used.
    """
    try:
        folder = private_folder(Path(cache).absolute()) if cache is not None else cache_dir()
        user_cc = os.environ.get("CC") or None
        key = (str(folder), user_cc or "", os.environ.get("PATH", ""))
        if key not in _prepared or not Path(_prepared[key].command[0]).exists():
            _prepared[key] = _search(folder, user_cc)
        adopt(folder, _prepared[key])
    except RunError:
        raise
    except OSError as error:
        raise _unusable(error) from error
    return _prepared[key]


def _search(folder: Path, user_cc: str | None) -> Toolchain:
    found = list(candidates(user_cc)) if user_cc else None
    memory = Memory(folder)
    refused: list[str] = []
    # A refusal remembered from another day is not the last word where nothing else works either.
    for fresh in (False, True):
        refused.clear()
        for candidate in found or candidates(user_cc):
            try:
                version = _verdict(candidate, memory, fresh)
            except Rejected as why:
                refused.append(f"{candidate.label}: {why}")
                continue
            identity = digest(
                candidate.command, version, object_flags(), processor(), kernel_database.tinygrad_version()
            )
            return Toolchain(candidate.kind, version, identity, candidate.command, folder, tuple(refused))
    raise ToolchainError(_nothing_found(refused))


def _verdict(candidate: Candidate, memory: Memory, fresh: bool) -> str:
    key = fingerprint(candidate)
    held = memory.verdicts.get(key, {})
    if "version" in held:
        return held["version"]
    if "reason" in held and not fresh:
        raise Rejected(held["reason"])
    try:
        version = probe(candidate)
    except Rejected as why:
        if why.lasting:
            memory.keep(key, {"reason": str(why)})
        raise
    memory.keep(key, {"version": version})
    return version


def adopt(cache: Path, toolchain: Toolchain) -> None:
    """Has tinygrad keep its kernels in this cache and compile those of the CPU by this toolchain; once."""

    def compiler() -> None:
        patch = functools.partial(_compile_by, toolchain)
        shield.when_imported("tinygrad.runtime.support.compiler_cpu", "compiler", patch)

    kernel_database.adopt(cache, toolchain.identity, compiler, _as_in_parent, (cache, toolchain))


def _as_in_parent(given: dict[str, str], cache: Path, toolchain: Toolchain) -> None:
    shield.give(**given)
    adopt(cache, toolchain)


def _compile_by(toolchain: Toolchain, module: Any) -> None:
    """Instead of tinygrad's call of what CC names: a compiler that is killed or hangs is no riddle."""

    def compile_(self: Any, source: str) -> bytes:
        flags = ["-c", "-x", "c", "-O2", "-fPIC", "-ffreestanding", "-fno-math-errno", "-nostdlib", "-fno-ident"]
        target = f"--target={self.arch}-none-unknown-elf"
        return workers.call([*toolchain.command, *flags, target, *self.args, "-", "-o", "-"], source, KERNEL_SECONDS)

    module.ClangCompiler.compile = compile_


# -- libraries ---------------------------------------------------------------------------------------------------------
def _whole_library(note: Path) -> Path | None:
    """The library that a note names, if both are this user's and it is what was written; None where it is not."""
    try:
        held = json.loads(read_private(note))
        path = note.with_name(f"{held['name']}-{held['sha256'][:32]}.so")
        return path if hashlib.sha256(read_private(path)).hexdigest() == held["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _keep_library(note: Path, name: str, content: bytes) -> Path:
    """Writes a library under its own digest, so that none ever changes while somebody loads it; then what names it."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = note.with_name(f"{name}-{sha256[:32]}.so")
    write_atomically(path, content, 0o700)
    write_atomically(note, json.dumps({"name": name, "sha256": sha256}).encode(), 0o600)
    return path


def _mounted_noexec(path: Path) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0))
    except (OSError, AttributeError):
        return False


def _unusable(error: OSError) -> ToolchainError:
    where = f"{error.filename}: " if error.filename else ""
    return ToolchainError(
        f"The cache folder cannot be used: {where}{error.strerror or error}",
        f"make room or give permission there, or {ELSEWHERE}",
        "nothing could be compiled",
    )


def _nothing_found(refused: list[str]) -> str:
    tried = "".join(f"  tried {line}\n" for line in refused)
    nothing = "" if any(not line.startswith("CC=") for line in refused) else "  found no clang on the PATH and no zig\n"
    ways = "".join(f"  {way}\n" for way in REMEDIES)
    needed = f"The CPU device ({machine()}) needs a clang, and none was found."
    return f"{needed}\n{tried}{nothing}Ways to get one:\n{ways}".rstrip()
