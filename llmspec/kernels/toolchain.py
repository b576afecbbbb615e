"""Making tinygrad's CPU device work on a machine as it comes, and a C compiler for small libraries of our own.

`prepare()` before tinygrad is first used; after it, `Tensor` operations on the CPU find their compiler and keep
their compiled kernels in a database of their own.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmspec.core.folders import CACHE_VARIABLE, cache_dir, private_folder
from llmspec.kernels.compilers import (
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
    write_atomically,
)

SHIMS, KERNELS, LIBRARIES, ZIG = "shims", "kernels", "libraries", "zig"
# What the user had in CC, kept for our own child processes, which see our CC instead.
USER_CC = "LLMSPEC_USER_CC"
LIBRARY_SECONDS = 300
REMEDIES = (
    "pip install ziglang                 (a whole clang as a Python package, any system)",
    "apt-get install clang               (Debian, Ubuntu)",
    "xcode-select --install              (macOS)",
    "export CC=/path/to/clang            (a clang somewhere else; gcc does not do)",
)


class ToolchainError(RuntimeError):
    """No usable C compiler, or one that failed; the message says what was tried and what to do."""


@dataclass(frozen=True)
class Toolchain:
    """A compiler that tinygrad's CPU device can use, found and tried."""

    compiler: Path  # what tinygrad runs: the compiler, or a script of ours that calls it
    kind: str  # 'CC' (the user's), 'clang' (on the PATH) or 'zig' (the clang inside zig)
    version: str  # the compiler's own first line about itself
    identity: str  # hash of compiler, version, flags, processor and tinygrad's version
    command: tuple[str, ...] = field(repr=False)  # the compiler itself, with the arguments that always come first
    cache: Path = field(repr=False)
    passed_over: tuple[str, ...] = ()  # candidates that came first and did not do, each with the reason

    def shared_library(self, source: str, name: str, flags: tuple[str, ...] = ()) -> Path:
        """Compile C `source` for this processor into a shared library, once; return its path.

        Functions of the C and mathematics libraries may be used: they resolve in the loading process.

        Args:
            source: C, complete.
            name: the first part of the file's name: letters, digits, '_' and '-'.
            flags: more flags, e.g. `("-ffast-math",)`.

        Raises:
            ToolchainError: with the compiler's own message.
        """
        command = self._library_command(flags)
        folder = private_folder(self.cache / LIBRARIES)
        path = folder / f"{name}-{digest(source, self.identity, command)}.so"
        if not path.exists():
            _compile_library(command, source, path, self._environment())
        return path

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
    """Find a compiler and point tinygrad's CPU device at it, through the environment; cheap when called again.

    Best called before tinygrad is imported; if it already is, what it has read too early is put right. A CACHEDB
    that the user has set is left alone. About 1 ms when an earlier process has probed the same compiler.

    Args:
        cache: the folder for scripts, kernels and libraries; by default `cache_dir()`.

    Raises:
        ToolchainError: no candidate works, or the cache folder cannot be used.
    """
    try:
        folder = private_folder(Path(cache).absolute()) if cache is not None else cache_dir()
        user_cc = _user_cc(folder)
        key = (str(folder), user_cc or "", os.environ.get("PATH", ""))
        if key not in _prepared or not _prepared[key].compiler.exists():
            _prepared[key] = _search(folder, user_cc)
        _adopt(_prepared[key], user_cc)
    except OSError as error:
        raise ToolchainError(f"The cache folder cannot be used: {error}\nSet {CACHE_VARIABLE} to another.") from error
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
                program = _program(candidate, folder)
                version = _verdict(candidate, program, memory, fresh)
            except Rejected as why:
                refused.append(f"{candidate.label}: {why}")
                continue
            identity = digest(candidate.command, version, object_flags(), processor(), _tinygrad_version())
            return Toolchain(program, candidate.kind, version, identity, candidate.command, folder, tuple(refused))
    raise ToolchainError(_nothing_found(refused))


def _verdict(candidate: Candidate, program: Path, memory: Memory, fresh: bool) -> str:
    key = fingerprint(candidate)
    held = memory.verdicts.get(key, {})
    if "version" in held:
        return held["version"]
    if "reason" in held and not fresh:
        raise Rejected(held["reason"])
    try:
        version = probe(candidate, program)
    except Rejected as why:
        if why.lasting:
            memory.keep(key, {"reason": str(why)})
        raise
    memory.keep(key, {"version": version})
    return version


def _program(candidate: Candidate, folder: Path) -> Path:
    """The one program that stands for the candidate's command: itself, or a script where it is several words."""
    if len(candidate.command) == 1:
        return Path(candidate.command[0])
    text = f'#!/bin/sh\nexec {shlex.join(candidate.command)} "$@"\n'
    shim = private_folder(folder / SHIMS) / f"{candidate.kind.lower()}-{digest(text)}"
    if not shim.exists():
        write_atomically(shim, text.encode(), 0o700)
    return shim


def _user_cc(folder: Path) -> str | None:
    """CC as the user set it, also where this process was started by one that had set its own, in any cache folder."""
    current = os.environ.get("CC")
    ours = USER_CC in os.environ and current and Path(current).parent.name == SHIMS
    if ours or (current and Path(current).parent == folder / SHIMS):
        return os.environ.get(USER_CC) or None
    return current or None


def _adopt(toolchain: Toolchain, user_cc: str | None) -> None:
    own_kernels = toolchain.cache / KERNELS
    os.environ[USER_CC] = user_cc or ""
    os.environ["CC"] = str(toolchain.compiler)
    database = os.environ.get("CACHEDB")
    if not database or own_kernels in Path(database).parents:
        database = str(private_folder(private_folder(own_kernels) / toolchain.identity) / "tinygrad.db")
        os.environ["CACHEDB"] = database
    _correct_tinygrad(database)


def keep_kernels(folder: Path | None = None) -> None:
    """Give tinygrad a database of ours for a device that brings its own compiler: kernels, and what BEAM has found.

    A CACHEDB that the user has set is left alone. Raises ToolchainError where the cache folder cannot be used.
    """
    try:
        own = private_folder(private_folder(folder or cache_dir()) / KERNELS)
        database = os.environ.get("CACHEDB")
        if not database or own in Path(database).parents:
            database = str(private_folder(own / f"tinygrad-{_tinygrad_version()}") / "tinygrad.db")
            os.environ["CACHEDB"] = database
        _correct_tinygrad(database)
    except OSError as error:
        raise ToolchainError(f"The cache folder cannot be used: {error}\nSet {CACHE_VARIABLE} to another.") from error


def _correct_tinygrad(database: str) -> None:
    """tinygrad reads the environment once, on import: where that is past, put in what it would read now."""
    helpers: Any = sys.modules.get("tinygrad.helpers")
    if helpers is None:
        return
    helpers.getenv.cache_clear()
    if database == helpers.CACHEDB:
        return
    if helpers._db_connection is not None:
        helpers._db_connection.close()
    helpers._db_connection, helpers.CACHEDB = None, database
    helpers._db_tables.clear()


def _tinygrad_version() -> str:
    # The folder's name says it; importlib.metadata, which reads it properly, takes 60 ms to import.
    import importlib.util

    spec = importlib.util.find_spec("tinygrad")
    if spec is not None and spec.origin:
        for name in os.listdir(Path(spec.origin).parent.parent):
            if name.startswith("tinygrad-") and name.endswith(".dist-info"):
                return name[len("tinygrad-") : -len(".dist-info")]
    from importlib import metadata

    try:
        return metadata.version("tinygrad")
    except metadata.PackageNotFoundError:
        return "unknown"


def _compile_library(command: list[str], source: str, path: Path, environment: dict[str, str]) -> None:
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        made = Path(folder) / "made.so"
        try:
            done = subprocess.run([*command, "-", "-o", str(made)], input=source, text=True, timeout=LIBRARY_SECONDS,
                                  capture_output=True, env=environment)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolchainError(f"{path.stem} could not be compiled: {error}") from error
        if done.returncode or not made.exists():
            raise ToolchainError(f"{path.stem} did not compile with {shlex.join(command)}:\n{done.stderr.strip()}")
        os.chmod(made, 0o700)
        os.replace(made, path)


def _nothing_found(refused: list[str]) -> str:
    tried = "".join(f"  tried {line}\n" for line in refused)
    nothing = "" if any(not line.startswith("CC=") for line in refused) else "  found no clang on the PATH and no zig\n"
    ways = "".join(f"  {way}\n" for way in REMEDIES)
    needed = f"The CPU device ({machine()}) needs a clang, and none was found."
    return f"{needed}\n{tried}{nothing}Ways to get one:\n{ways}".rstrip()
