"""tinygrad's database of compiled kernels: pickles and machine code, so it is guarded, and made anew if it is broken.

A damaged, locked or unwritable database of ours never ends a run: what cannot be read is compiled, what cannot be
written is compiled again another day. One that the user named by CACHEDB is never touched, only refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmspec.backends import shield, workers
from llmspec.core.folders import OTHERS, cache_dir, private_folder
from llmspec.core.problems import RunError

Call = Callable[..., Any]
KERNELS = "kernels"
"""The folder of the cache that holds the databases."""
READERS = ("tinygrad.device", "tinygrad.codegen.opt.search")
"""Modules of tinygrad that read and write kernels."""
ASIDE = ("-wal", "-shm", "-journal")
"""What sqlite keeps beside a database."""


_adopted: list[Any] = []


def adopt(
    cache: Path,
    name: str,
    compiler: Callable[[], None] | None,
    start: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """Has tinygrad keep its kernels in a folder of this name, and compile them as `compiler` sets it up; once.

    Processes that make kernels call `start(given, *arguments)` first, with what tinygrad was given to read. A CACHEDB
    that the user has set is left alone. Raises CacheError where the cache folder cannot be used.
    """
    theirs = os.environ.get("CACHEDB")
    what = [*arguments, name, theirs]
    if _adopted == what:
        return
    if theirs:
        use(Path(theirs).absolute(), ours=False)
    else:
        use(private_folder(private_folder(cache / KERNELS) / name) / "tinygrad.db", ours=True)
    if compiler is not None:
        compiler()
    workers.use(start, dict(shield.given), *arguments)
    _adopted[:] = what


def keep_kernels(folder: Path | None = None) -> None:
    """Give tinygrad a database of ours for a device that brings its own compiler: kernels, and what BEAM has found."""
    cache = folder or cache_dir()
    adopt(cache, f"tinygrad-{tinygrad_version()}", None, _as_in_parent, (cache,))


def _as_in_parent(given: dict[str, str], cache: Path) -> None:
    shield.give(**given)
    keep_kernels(cache)


def tinygrad_version() -> str:
    """The version of tinygrad, which is not imported for it; 'unknown' where it cannot be told."""
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


def use(path: Path, ours: bool) -> None:
    """Has tinygrad keep kernels in this database, now or once it is imported. Raises RunError for one that is refused.

    One of `ours` that others may have written, or that is no database, is removed.
    """
    if wrong := _wrong(path):
        if not ours:
            raise RunError(
                f"CACHEDB={path}: {wrong}",
                "unset CACHEDB, or name a file of your own",
                "kernels are loaded from it and run",
            )
        _remove(path)
    shield.give(CACHEDB=str(path))
    shield.when_imported("tinygrad.helpers", "database", functools.partial(_guard, path, ours))
    for reader in READERS:  # what was imported before has its own names for the two functions
        if reader in sys.modules:
            _hand_on(sys.modules[reader])


def _wrong(path: Path) -> str:
    """Why a database will not do; '' where it does, or is not there yet."""
    for file in (path, *(path.with_name(path.name + end) for end in ASIDE)):
        try:
            status = os.lstat(file)
        except FileNotFoundError:
            continue
        except OSError as error:
            return str(error.strerror or error)
        if not stat.S_ISREG(status.st_mode):
            return "no regular file"
        if sys.platform != "win32" and (status.st_uid not in (0, os.getuid()) or status.st_mode & OTHERS):
            return f"others can write {file.name}"
    try:
        with path.open("rb") as held:
            return "no database" if held.read(16) not in (b"", b"SQLite format 3\0") else ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error.strerror or error)


def _remove(path: Path) -> None:
    for file in (path, *(path.with_name(path.name + end) for end in ASIDE)):
        with contextlib.suppress(OSError):
            file.unlink()


def _hand_on(module: Any) -> None:
    helpers: Any = sys.modules["tinygrad.helpers"]
    module.diskcache_get, module.diskcache_put = helpers.diskcache_get, helpers.diskcache_put


def _guard(path: Path, ours: bool, helpers: Any) -> None:
    """Puts the database in place of tinygrad's, and guards in place of the functions that read and write it."""
    _forget(helpers)
    helpers.CACHEDB = str(path)
    get, put = (getattr(f, "plain", f) for f in (helpers.diskcache_get, helpers.diskcache_put))
    helpers.diskcache_get, helpers.diskcache_put = (_ours if ours else _theirs)(path, helpers, get, put)
    helpers.diskcache_get.plain, helpers.diskcache_put.plain = get, put


def _ours(path: Path, helpers: Any, get: Call, put: Call) -> tuple[Call, Call]:
    """Entries with their digests. Where the database fails, it is made anew once, and then done without."""
    tries = 2

    def guarded(call: Callable[[], Any]) -> Any:
        nonlocal tries
        while tries > 0:
            try:
                return call()
            except Exception as error:  # of sqlite, of the file system, of unpickling what is no pickle
                _forget(helpers)
                tries -= 1
                if isinstance(error, sqlite3.OperationalError | OSError):  # locked, full, or not to be written
                    tries = 0
                else:
                    _remove(path)
        return None

    def guarded_get(table: str, key: Any) -> Any:
        held = guarded(lambda: get(table, key))
        whole = isinstance(held, tuple) and len(held) == 2 and hashlib.sha256(held[1]).digest() == held[0]
        return pickle.loads(held[1]) if whole else None

    def guarded_put(table: str, key: Any, value: Any, prepickled: bool = False) -> Any:
        content = value if prepickled else pickle.dumps(value)
        guarded(lambda: put(table, key, (hashlib.sha256(content).digest(), content)))
        return value

    return guarded_get, guarded_put


def _theirs(path: Path, helpers: Any, get: Call, put: Call) -> tuple[Call, Call]:
    """The same functions; where the database fails, they say which one."""

    def guarded(call: Call) -> Call:
        @functools.wraps(call)
        def told(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(*args, **kwargs)
            except (sqlite3.Error, OSError, pickle.UnpicklingError, EOFError) as error:
                _forget(helpers)
                raise RunError(
                    f"CACHEDB={path} cannot be used: {error}",
                    "unset CACHEDB, or remove that file",
                    "kernels would have no place to be kept",
                ) from error

        return told

    return guarded(get), guarded(put)


def _forget(helpers: Any) -> None:
    if helpers._db_connection is not None:
        with contextlib.suppress(Exception):
            helpers._db_connection.close()
    helpers._db_connection = None
    helpers._db_tables.clear()
