"""Kinds of damage to a file, and a run, its cache and its sources to do them to: for tests that open what is broken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]


def _replaced(content: bytes) -> Damage:
    def do(path: Path) -> None:
        path.write_bytes(content)

    return do


def _flipped(path: Path) -> None:
    """One bit, in the middle."""
    raw = bytearray(path.read_bytes()) or bytearray(b"x")
    raw[len(raw) // 2] ^= 16
    path.write_bytes(raw)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 100)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _socket(path: Path) -> None:
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has a hundred letters at most
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path.name)
    finally:
        os.chdir(here)


def _link(path: Path) -> None:
    """A link to a file of the same content elsewhere."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nonexistent/file")


def _sparse(path: Path) -> None:
    """A terabyte that takes no room."""
    with path.open("wb") as f:
        f.truncate(1 << 40)


def _altered(change: Callable[[Any], Any]) -> Damage:
    """Of JSON: the value changed; of JSON lines, each of them; of anything else, something that only begins well."""

    def do(path: Path) -> None:
        text = path.read_bytes()
        for lines in ([text], text.strip().split(b"\n")):
            try:
                path.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in lines))
                return
            except ValueError:
                continue
        path.write_bytes(b"\x93NUMPY\x01\x00" + b"\xff" * 64)

    return do


def _mistyped(value: Any) -> Any:
    """Every number a text, every text a number, every list a table, at all depths."""
    if isinstance(value, dict):
        return {k: _mistyped(v) for k, v in value.items()}
    if isinstance(value, list):
        return {str(i): _mistyped(v) for i, v in enumerate(value)}
    return 3 if isinstance(value, str) else "3"


def _huge(value: Any) -> Any:
    """Every number absurd, at all depths."""
    if isinstance(value, dict):
        return {k: _huge(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_huge(v) for v in value]
    return 10**30 if isinstance(value, int | float) and not isinstance(value, bool) else value


def _huge_rows(value: Any) -> Any:
    """The same, but for the step, so that a row stays one."""
    return {**_huge(value), "step": 1} if isinstance(value, dict) else value


def _mistyped_rows(value: Any) -> Any:
    return {**_mistyped(value), "step": 1} if isinstance(value, dict) else value


def _emptied(value: Any) -> Any:
    """Every list and table within empty."""
    return (
        {k: type(v)() if isinstance(v, dict | list) else v for k, v in value.items()}
        if isinstance(value, dict)
        else type(value)()
    )


DAMAGES: dict[str, Damage] = {
    "missing": Path.unlink,
    "empty": _replaced(b""),
    "flipped": _flipped,
    "cut": _cut,
    "longer": _longer,
    "folder": _folder,
    "pipe": _pipe,
    "socket": _socket,
    "link": _link,
    "dangling": _dangling,
    "sparse": _sparse,
    "not utf-8": _replaced(b"\xff\xfe{}\x00"),
    "list": _replaced(b"[]"),
    "null": _replaced(b"null\n"),
    "nan": _replaced(b'{"step": NaN, "key": 1e999}\n'),
    "deep": _replaced(b"[" * 100_000),
    "digits": _replaced(b'{"step": ' + b"9" * 400 + b', "seed": ' + b"9" * 5000 + b"}\n"),
    "twice": _replaced(b'{"key": 1, "key": 2}\n'),
    "surrogate": _replaced(b'{"name": "\\ud800", "step": 1}\n'),
    "header": _replaced(struct.pack("<Q", 1 << 60) + b"{}"),
    "mistyped": _altered(_mistyped),
    "huge": _altered(_huge),
    "emptied": _altered(_emptied),
    "huge rows": _altered(_huge_rows),
    "mistyped rows": _altered(_mistyped_rows),
    "other rows": _altered(lambda v: {"step": 10**30, "loss": 1, "validation": [1], "text": {}}),
    "no scores": _altered(lambda v: {"step": 1, "validation": [{"name": "loss", "value": 0, "source": "facts"}]}),
    "odd scores": _altered(lambda v: {"step": 1, "validation": [{"name": "loss", "value": [1]}]}),
    "large scores": _altered(
        lambda v: {
            "step": 1,
            "seconds": 0,
            "loss": 1e308,
            "norm": 1e308,
            "validation": [{"name": "loss", "value": 1e308, "unit": "nats/token", "source": "facts"}],
        }
    ),
    "unexpected": _altered(lambda v: {"another": v}),
}


@contextmanager
def done_to(path: Path, damage: str) -> Iterator[None]:
    """A file damaged while inside, and as it was after."""
    with tempfile.TemporaryDirectory() as apart:
        kept = Path(shutil.copy2(path, apart))
        try:
            DAMAGES[damage](path)
            yield
        finally:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)  # what is made anew may have another name
            shutil.move(kept, path)
            path.with_name("elsewhere").unlink(missing_ok=True)


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, the run's own lock file left out."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
