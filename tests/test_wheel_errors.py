"""Wheels that nobody should unpack: members that leave their folder, links, bombs, and damage anywhere."""

import contextlib
import shutil
import zipfile
from pathlib import Path

import pytest

from llmspec.core.problems import DataError
from llmspec.data import wheels
from llmspec.data.wheels import unpack


def zipped(path: Path, *members: tuple[str, str], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, text)
    return path


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/abs.txt", "C:/x.txt", "a\\..\\b.txt"])
def test_no_member_leaves_its_folder(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "x.whl", ("fine.txt", "x"), (name, "x"))
    with pytest.raises(DataError, match="not safe to unpack"):
        unpack(archive, tmp_path / "in" / "files")
    assert sorted(p.name for p in tmp_path.rglob("*.txt")) == []


def test_links_bombs_twins_and_non_archives_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="a link or a device"):
        unpack(zipped(tmp_path / "l.whl", ("link", "/etc/passwd"), mode=0o120777), tmp_path / "l")
    monkeypatch.setattr(wheels, "LARGEST_FOLDER", 1000)
    with pytest.raises(DataError, match="unpacks to more than"):
        unpack(zipped(tmp_path / "b.whl", ("a", "x" * 600), ("b", "x" * 600)), tmp_path / "b")
    with pytest.warns(UserWarning, match="Duplicate"):
        twins = zipped(tmp_path / "t.whl", ("a", "1"), ("a", "2"))
    with pytest.raises(DataError, match="twice"):
        unpack(twins, tmp_path / "t")
    monkeypatch.setattr(wheels, "MOST_MEMBERS", 2)
    with pytest.raises(DataError, match="more than 2 files"):
        unpack(zipped(tmp_path / "m.whl", ("a", "1"), ("b", "2"), ("c", "3")), tmp_path / "m")
    (tmp_path / "n.whl").write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match="not a readable wheel"):
        unpack(tmp_path / "n.whl", tmp_path / "n")


def test_no_damage_of_a_wheel_ends_in_anything_but_a_sentence(tmp_path: Path) -> None:
    raw = zipped(tmp_path / "w.whl", ("a.txt", "some text " * 20), ("b/c.txt", "more")).read_bytes()
    for at in range(0, len(raw), 3):
        for value in (0, 0xFF, raw[at] ^ 0x55):
            (tmp_path / "d.whl").write_bytes(raw[:at] + bytes([value]) + raw[at + 1 :])
            with contextlib.suppress(DataError):
                unpack(tmp_path / "d.whl", tmp_path / "out")
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with pytest.raises(DataError, match="holds"):
        unpack(zipped(tmp_path / "n.whl", ("a", "1"), ("a/b", "2")), tmp_path / "n")
    with pytest.raises(DataError, match="cannot be unpacked into"):
        unpack(zipped(tmp_path / "l.whl", ("n" * 300, "1")), tmp_path / "l")
