"""Only regular files are read, and never more of them than was asked for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from llmspec.core.regular import NotRegular, TooLarge, open_regular, read_regular


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "terminal").symlink_to("/dev/null")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("file")
    with (tmp_path / "terabyte").open("wb") as file:
        file.truncate(1 << 40)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("folder", "a folder"),
        ("pipe", "a pipe"),
        ("zero", "a device"),
        ("terminal", "a device"),
        ("socket", "a socket"),
    ],
)
def test_what_is_no_file_is_named_and_not_waited_for(odd: Path, name: str, kind: str) -> None:
    with pytest.raises(NotRegular, match=f"{kind}, not a file"):
        open_regular(odd / name)


def test_links_are_followed_only_where_that_is_wanted(odd: Path) -> None:
    assert read_regular(odd / "link", 4) == b"text"
    with pytest.raises(NotRegular, match="a link, not a file"):
        read_regular(odd / "link", 4, links=False)
    assert read_regular(odd / "file", 4, links=False) == b"text"


def test_size_is_seen_before_anything_is_read(odd: Path) -> None:
    with pytest.raises(TooLarge) as raised:
        read_regular(odd / "terabyte", 1000)
    assert raised.value.size == 1 << 40
    with pytest.raises(TooLarge):
        read_regular(odd / "file", 3)


def test_what_is_missing_is_said_as_ever(odd: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(odd / "nothing", 4)
    with pytest.raises(NotADirectoryError):
        read_regular(odd / "file" / "below", 4)
