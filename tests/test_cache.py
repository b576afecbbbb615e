"""The cache runs code: nothing in it is used that others can have written, and what is damaged is made anew."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from llmspec.backends.cpu import toolchain
from llmspec.backends.cpu.toolchain import Toolchain, ToolchainError
from llmspec.core.folders import CacheError, cache_dir, private_folder, read_private

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes of POSIX")
ROOT_ONLY = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
STRANGER = 12345


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# -- folders -----------------------------------------------------------------------------------------------------------
def test_what_is_made_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private_folder(tmp_path / "new" / "folder")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == mode(tmp_path / "new" / "folder") == 0o700


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        (0o700, True),
        (0o755, True),
        (0o500, True),
        (0o770, False),
        (0o775, False),
        (0o777, False),
        (0o757, False),
    ],
)
@pytest.mark.parametrize("where", ["itself", "above it", "behind a link"])
@ROOT_ONLY
def test_an_existing_folder_is_taken_as_it_is_or_refused(
    tmp_path: Path, given: int, accepted: bool, where: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    os.chown(place, 0, STRANGER)  # a group that is nobody's own
    place.chmod(given)
    folder = place / "below" if where == "above it" else place
    if where == "behind a link":
        folder = tmp_path / "link"
        folder.symlink_to(place)
    if accepted:
        assert private_folder(folder) == folder
    else:
        with pytest.raises(CacheError, match="can be written by others") as refused:
            private_folder(folder)
        assert str(place) in str(refused.value) and "LLMSPEC_CACHE" in str(refused.value)
    assert mode(place) == given


@ROOT_ONLY
@pytest.mark.parametrize("where", ["itself", "above it", "a link"])
def test_root_too_refuses_what_belongs_to_others(tmp_path: Path, where: str) -> None:
    place = tmp_path / "theirs"
    if where == "a link":
        (tmp_path / "real").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "real")
    else:
        place.mkdir(mode=0o755)
    os.chown(place, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(CacheError, match=f"belongs to user {STRANGER}"):
        private_folder(place / "below" if where == "above it" else place)


def test_a_private_group_may_write(tmp_path: Path) -> None:
    """Many systems give each user a group of his own, and a umask that lets it write."""
    import grp
    import pwd

    me = pwd.getpwuid(os.getuid()).pw_name
    own = grp.getgrgid(os.getgid())
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o775)
    if own.gr_name == me and set(own.gr_mem) <= {me}:
        private_folder(tmp_path / "cache")
    else:
        with pytest.raises(CacheError):
            private_folder(tmp_path / "cache")


def test_in_a_folder_for_everybody_it_is_one_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setenv("LLMSPEC_CACHE", str(shared))
    assert cache_dir() == shared / f"llmspec-{os.getuid()}" and mode(cache_dir()) == 0o700 and mode(shared) == 0o1777


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"HOME": "/nowhere/at/all"}, "the home folder /nowhere/at/all does not exist"),
        ({"HOME": "relative"}, "the home folder relative does not exist"),
        ({"LLMSPEC_CACHE": "~nobody-of-this-name/x"}, "names no home folder"),
        ({"LLMSPEC_CACHE": "/dev/null/x"}, "cannot be used as a cache folder"),
        ({"LLMSPEC_CACHE": "/" + "x" * 300}, "cannot be used as a cache folder"),
        ({"LLMSPEC_CACHE": "/proc/llmspec"}, "cannot be used as a cache folder"),
    ],
)
def test_a_cache_without_a_place_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], said: str
) -> None:
    for name in ("LLMSPEC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(CacheError, match=said) as refused:
        cache_dir()
    assert "LLMSPEC_CACHE" in refused.value.problems[0].hint


def test_a_user_whom_the_system_does_not_know_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLMSPEC_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(CacheError, match="HOME is not set"):
        cache_dir()


@pytest.mark.parametrize("verb", [["check"], ["explain", "--time"], ["run"]])
def test_every_verb_says_so_and_ends(tmp_path: Path, verb: list[str]) -> None:
    spec = tiny.write(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    done = tiny.call(*verb, spec, cwd=tmp_path, LLMSPEC_CACHE=str(tmp_path / "open"))
    assert "Traceback" not in done.stderr
    if verb != ["check"]:
        assert done.returncode == 2 and "can be written by others" in " ".join((done.stdout + done.stderr).split())
    assert mode(tmp_path / "open") == 0o777


# -- libraries ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Toolchain, list[int]]:
    """A toolchain that compiles nothing, and how often it was asked to."""
    calls: list[int] = []

    def library(self: Toolchain, command: list[str], source: str, name: str, folder: Path) -> bytes:
        calls.append(1)
        return source.encode() * 100

    monkeypatch.setattr(Toolchain, "_made_library", library)
    return Toolchain("clang", "1", "identity", ("/usr/bin/clang",), private_folder(tmp_path / "cache")), calls


def harm(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 1
    elif how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content.clear()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "link":
        path.with_suffix(".elsewhere").write_bytes(content)
        path.symlink_to(path.with_suffix(".elsewhere"))
    elif how != "gone":
        path.write_bytes(content)
        path.chmod(0o666 if how == "open to all" else 0o600)
    if how == "foreign" and os.getuid() == 0:
        os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize("which", [".so", ".json"])
@pytest.mark.parametrize(
    "how", ["flip", "cut", "empty", "gone", "pipe", "link", "open to all", pytest.param("foreign", marks=ROOT_ONLY)]
)
def test_a_library_that_is_not_whole_or_not_ours_is_made_anew(
    made: tuple[Toolchain, list[int]], which: str, how: str
) -> None:
    compiler, calls = made
    path = compiler.shared_library("source", "native")
    assert compiler.shared_library("source", "native") == path and len(calls) == 1
    harm(next(path.parent.glob(f"*{which}")), how)
    again = compiler.shared_library("source", "native")
    assert len(calls) == 2 and read_private(again) == b"source" * 100
    assert compiler.shared_library("source", "native") == again and len(calls) == 2


def test_another_source_is_another_library(made: tuple[Toolchain, list[int]]) -> None:
    compiler, calls = made
    assert compiler.shared_library("one", "native") != compiler.shared_library("two", "native") and len(calls) == 2


def test_several_may_make_one_library_at_once(made: tuple[Toolchain, list[int]]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    compiler, _ = made
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda n: compiler.shared_library("source", "native"), range(40)))
    assert len(paths) == 1 and read_private(paths.pop()) == b"source" * 100


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB that nothing may be run from."""
    place = tmp_path / "disk"
    place.mkdir(mode=0o700)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,noexec,mode=0700", "tmpfs", place], capture_output=True
    ).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@ROOT_ONLY
def test_a_cache_that_nothing_may_run_from_is_named(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(ctypes.util.find_library("m") or "libm.so.6")
    monkeypatch.setattr(Toolchain, "_made_library", lambda *a: b"\x7fELF" + bytes(999))
    compiler = Toolchain("clang", "1", str(whole), ("/usr/bin/clang",), disk)
    with pytest.raises(ToolchainError, match="mounted noexec") as refused:
        compiler.loaded(compiler.shared_library("source", "native"))
    assert "LLMSPEC_CACHE" in str(refused.value)


@ROOT_ONLY
def test_a_full_disk_is_a_sentence_and_leaves_nothing_half(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Toolchain, "_made_library", lambda *a: bytes(200_000))
    compiler = Toolchain("clang", "1", "identity", ("/usr/bin/clang",), disk)
    with pytest.raises(ToolchainError, match="No space left on device"):
        compiler.shared_library("source", "native")
    assert not list((disk / toolchain.LIBRARIES).iterdir())


# -- tinygrad's database ---------------------------------------------------------------------------------------------
DATABASE = """
import sys, pathlib
from llmspec.backends import kernel_database
import llmspec.core.problems as problems
path, ours = pathlib.Path(sys.argv[1]), sys.argv[2] == "ours"
try:
    kernel_database.use(path, ours)
    from tinygrad import helpers, device
    assert device.diskcache_get is helpers.diskcache_get
    print("found", device.diskcache_get("kernels", "key"))
    device.diskcache_put("kernels", "key", b"kernel" * 2000)
    print("kept", device.diskcache_get("kernels", "key") == b"kernel" * 2000)
except problems.RunError as error:
    print("refused", str(error).splitlines()[0])
"""


def asked(path: Path, whose: str = "ours") -> str:
    done = subprocess.run(
        [sys.executable, "-c", DATABASE, path, whose],
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT), "HOME": str(path.parent)},
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().replace(str(b"kernel" * 2000), "it")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with one entry."""
    path = tmp_path_factory.mktemp("kernels") / "tinygrad.db"
    assert asked(path) == "found None\nkept True" and asked(path) == "found it\nkept True"
    return path.read_bytes()


@pytest.mark.parametrize(
    "how",
    [
        "garbage",
        "flip",
        "cut",
        "empty",
        "open to all",
        "pipe",
        "link",
        "a pickle of another",
        pytest.param("foreign", marks=ROOT_ONLY),
    ],
)
def test_a_broken_database_of_ours_is_made_anew(kernels: bytes, tmp_path: Path, how: str) -> None:
    path = tmp_path / "tinygrad.db"
    path.write_bytes(b"garbage" * 999 if how == "garbage" else kernels)
    if how == "flip":  # within the kernel, where sqlite does not look
        path.write_bytes(kernels.replace(b"kernelkernelkernel", b"kernelkernalkernel", 1))
    elif how == "a pickle of another":  # what a tinygrad without digests has kept
        path.unlink()
        plain = "import tinygrad.helpers as h; h.diskcache_put('kernels', 'key', b'x')"
        subprocess.run([sys.executable, "-c", plain], check=True, env={**os.environ, "CACHEDB": str(path)})
    elif how != "garbage":
        harm(path, how)
    assert asked(path) == "found None\nkept True"
    assert asked(path) == "found it\nkept True"


def test_a_database_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "tinygrad.db").mkdir()
    (tmp_path / "tinygrad.db" / "x").touch()
    assert asked(tmp_path / "tinygrad.db") == "found None\nkept False"


@pytest.mark.parametrize("how", ["garbage", "cut", "open to all"])
def test_one_that_the_user_named_is_refused_and_never_touched(kernels: bytes, tmp_path: Path, how: str) -> None:
    path = tmp_path / "own.db"
    path.write_bytes(b"garbage" * 999 if how == "garbage" else kernels)
    if how != "garbage":
        harm(path, how)
    before = path.read_bytes()
    said = asked(path, "theirs")
    assert said.splitlines()[-1].startswith(f"refused CACHEDB={path}") and path.read_bytes() == before
