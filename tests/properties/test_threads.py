"""How many threads a container, `taskset` and the environment leave, and which device DEV means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from llmspec.core import cgroups, devices
from llmspec.core.problems import RunError

V2 = "30 23 0:27 {mounted} {point} rw,relatime shared:4 - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 {mounted} {point} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
MANY = 1 << 20


def system(root: Path, members: str, mounts: str, files: dict[str, str]) -> Path:
    """A folder that looks like / to whoever asks for quotas."""
    for name, text in {"proc/self/cgroup": members, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("members", "mounts", "files", "quota"),
    [
        # version 2, as Docker and Kubernetes show it from inside: the own group is the root
        ("0::/\n", V2.format(mounted="/", point="/sys/fs/cgroup"), {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", V2.format(mounted="/", point="/sys/fs/cgroup"), {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        # a limit further up holds too, and the smallest wins
        (
            "0::/a/b\n",
            V2.format(mounted="/", point="/sys/fs/cgroup"),
            {"sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "200000 100000"},
            2.0,
        ),
        (
            "0::/a/b\n",
            V2.format(mounted="/", point="/sys/fs/cgroup"),
            {"sys/fs/cgroup/a/b/cpu.max": "50000 100000", "sys/fs/cgroup/a/cpu.max": "200000 100000"},
            0.5,
        ),
        # what neighbours may do is nothing to us
        ("0::/a/b\n", V2.format(mounted="/", point="/sys/fs/cgroup"), {"sys/fs/cgroup/a/c/cpu.max": "1 100000"}, None),
        # a mount of a part of the hierarchy, at a path with a space
        (
            "0::/pod/one\n",
            V2.format(mounted="/pod", point="/sys/fs/c\\040g"),
            {"sys/fs/c g/one/cpu.max": "300000 100000"},
            3.0,
        ),
        # the host's path to our group, where only the group itself is mounted
        (
            "0::/docker/abc\n",
            V2.format(mounted="/docker/abc", point="/sys/fs/cgroup"),
            {"sys/fs/cgroup/cpu.max": "100000 100000"},
            1.0,
        ),
        (
            "0::/../elsewhere\n",
            V2.format(mounted="/", point="/sys/fs/cgroup"),
            {"sys/fs/cgroup/cpu.max": "100000 100000"},
            1.0,
        ),
        # version 1, with and without a limit, and beside an empty version 2
        (
            "4:memory:/x\n3:cpu,cpuacct:/a\n0::/\n",
            V1.format(mounted="/", point="/sys/fs/cgroup/cpu"),
            {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        (
            "3:cpu,cpuacct:/a\n",
            V1.format(mounted="/", point="/sys/fs/cgroup/cpu"),
            {"sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"},
            None,
        ),
        (
            "1:cpu:/a\n0::/b\n",
            V1.format(mounted="/", point="/c1") + V2.format(mounted="/", point="/c2"),
            {"c1/a/cpu.cfs_quota_us": "400000", "c1/a/cpu.cfs_period_us": "100000", "c2/b/cpu.max": "300000 100000"},
            3.0,
        ),
        # nothing there, or nonsense
        ("", "", {}, None),
        ("0::/\n", "no mounts at all\n\n - cgroup2\n", {}, None),
        ("0::/\n", V2.format(mounted="/", point="/s"), {"s/cpu.max": "0 100000"}, None),
        ("0::/\n", V2.format(mounted="/", point="/s"), {"s/cpu.max": "100000 0"}, None),
        ("0::/\n", V2.format(mounted="/", point="/s"), {"s/cpu.max": "many"}, None),
    ],
)
def test_the_quota_of_a_group(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: str,
    mounts: str,
    files: dict[str, str],
    quota: float | None,
) -> None:
    root = system(tmp_path, members, mounts, files)
    assert cgroups.quota(root) == quota
    monkeypatch.setattr(devices, "affinity", lambda: MANY)
    if sys.platform == "linux":
        expected = MANY if quota is None else {1.5: 2, 2.0: 2, 0.5: 1, 3.0: 3, 1.0: 1, 2.5: 3}[quota]
        assert devices.cores(root) == expected


@given(text=st.binary(max_size=60), members=st.binary(max_size=60), mounts=st.binary(max_size=120))
def test_whatever_those_files_hold_the_quota_is_none_or_above_zero(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, members: bytes, mounts: bytes
) -> None:
    root = tmp_path_factory.mktemp("root")
    (root / "proc/self").mkdir(parents=True)
    (root / "c").mkdir()
    (root / "proc/self/cgroup").write_bytes(b"0::/\n" + members)
    (root / "proc/self/mountinfo").write_bytes(mounts + b"\n" + V2.format(mounted="/", point="/c").encode())
    (root / "c/cpu.max").write_bytes(text)
    found = cgroups.quota(root)
    assert found is None or 0 < found < 10**18


@pytest.mark.parametrize(
    ("ours", "omp", "cores", "expected"),
    [
        ("", "", 8, 8),
        ("3", "", 8, 3),
        ("3", "1", 8, 3),
        ("16", "", 2, 16),
        (" 2 ", "", 8, 2),
        ("", "2", 8, 2),
        ("", "2,4", 8, 2),
        ("", " 4 , 2", 8, 4),
        ("", "16", 8, 8),
        ("", "1000000000", 8, 8),
        ("", "0", 8, 8),
        ("", "-1", 8, 8),
        ("", "many", 8, 8),
        ("", "2,many", 8, 8),
        ("", "1.5", 8, 8),
        ("", ",", 8, 8),
    ],
)
def test_ours_before_openmp_before_what_is_here(
    monkeypatch: pytest.MonkeyPatch, ours: str, omp: str, cores: int, expected: int
) -> None:
    monkeypatch.setattr(devices, "cores", lambda root: cores)
    monkeypatch.setenv(devices.THREADS, ours)
    monkeypatch.setenv(devices.OMP_THREADS, omp)
    assert devices.threads() == expected
    told = any(devices.OMP_THREADS in line for line in devices.remarks())
    followed = not omp or (omp.split(",")[0].strip() == str(expected) and "many" not in omp)
    assert told == (not ours.strip() and not followed)


@pytest.mark.parametrize("text", ["0", "-1", "many", "2,4", "1e3", "65", str(10**9), "9" * 5000, "١"])
def test_threads_that_are_no_number_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(devices.THREADS, text)
    with pytest.raises(RunError, match=devices.THREADS) as refused:
        devices.threads()
    assert "1 to 64" in str(refused.value)


def test_a_misspelt_variable_of_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPEC_THREAD", "3")
    assert any("LLMSPEC_THREAD " in line and "LLMSPEC_THREADS?" in line for line in devices.remarks())


@pytest.mark.parametrize(
    ("named", "device"),
    [
        ("CPU", "CPU"),
        ("cpu", "CPU"),
        ("CPU:LLVM", "CPU"),
        ("cuda", "CUDA"),
        ("CUDA:1", "CUDA:1"),
        ("METAL", "METAL"),
        ("NV", "NV"),
        ("production", None),
        ("dev", None),
        ("1", None),
        ("", None),
        ("CPUX", None),
        ("repo/app:1", None),
        ("CUDA;rm -rf", None),
        ("NULL", None),
        ("true", None),
    ],
)
def test_dev_names_a_device_or_is_ignored_with_a_word(
    monkeypatch: pytest.MonkeyPatch, named: str, device: str | None
) -> None:
    monkeypatch.delenv("DEV", raising=False)
    usual, _ = devices.automatic()
    monkeypatch.setenv("DEV", named)
    found, why = devices.automatic()
    assert found == (device or usual)
    assert ("ignored" in why) == (device is None and bool(named))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no taskset here")
def test_taskset_decides() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from llmspec.core.devices import threads; print(threads())"
    )
    environment = {k: v for k, v in os.environ.items() if k not in (devices.THREADS, devices.OMP_THREADS)}
    out = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        check=True,
        env={**environment, "PYTHONPATH": str(tiny.ROOT)},
    )
    assert out.stdout.strip() == "1"


def test_the_command_line_refuses_them_before_anything_is_read(tmp_path: Path) -> None:
    done = tiny.call(
        "check", tiny.write(tmp_path, tiny.TINY.replace("d_model: 16", "d_model: 15")), LLMSPEC_THREADS="many"
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "LLMSPEC_THREADS='many' is not a number of threads" in done.stdout + done.stderr
    assert "d_model" in done.stdout + done.stderr, "a broken spec is told beside it"
