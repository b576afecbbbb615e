"""Every backend's operations are those that parts may ask for, argument by argument; mypy says the same of types."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from llmspec.backends.cpu.ops import CPUOps
from llmspec.backends.plain.mixed_precision import MixedPrecisionOps
from llmspec.backends.plain.ops import Ops
from llmspec.parts.ops import Operations

ASKED = sorted(name for name in vars(Operations) if not name.startswith("_"))


def differences(backend: type, protocol: type) -> list[str]:
    """What of a protocol's operations a backend lacks, or takes otherwise."""
    found = []
    for name in (n for n in vars(protocol) if not n.startswith("_")):
        asked, given = inspect.getattr_static(protocol, name), inspect.getattr_static(backend, name, None)
        if given is None:
            found.append(f"{name} is missing")
        elif isinstance(asked, property) != isinstance(given, property):
            found.append(f"{name} is a property in one of them")
        elif not isinstance(asked, property):
            one, other = inspect.signature(asked), inspect.signature(given)
            if list(one.parameters.values()) != list(other.parameters.values()):
                found.append(f"{name}{other} in place of {name}{one}")
            if one.return_annotation != other.return_annotation:
                found.append(f"{name} gives {other.return_annotation} in place of {one.return_annotation}")
    return found


@pytest.mark.parametrize("backend", [Ops, CPUOps, MixedPrecisionOps])
def test_every_backend_takes_what_parts_give(backend: type) -> None:
    assert not differences(backend, Operations)


def test_another_argument_is_seen() -> None:
    class Wrong(Ops):
        def rms_norm(self, x: object, weight: object, epsilon: float) -> object:  # type: ignore[override]
            return x

        gelu = None  # type: ignore[assignment]

    found = differences(Wrong, Operations)
    assert len(found) == 3 and "epsilon" in " ".join(found) and "gelu is missing" in found


def test_what_parts_ask_for_is_what_they_may_ask_for() -> None:
    """Every `ops.name` of the parts is in the protocol, and the protocol holds little that no part asks for."""
    text = "".join(path.read_text("utf-8") for path in (tiny.ROOT / "llmspec" / "parts").rglob("*.py"))
    used = set(re.findall(r"\bops\.([a-z]\w*)\(", text))
    assert used <= set(ASKED)
    assert {"linear", "attention", "update"} <= used


WRONG = """
from llmspec.backends.plain.ops import Ops
from llmspec.parts.ops import Operations, Tensor

class Half:
    def gelu(self, x: Tensor) -> Tensor:
        return x

def misspelt(ops: Operations, x: Tensor) -> Tensor:
    return ops.rms_nrom(x, x, 1e-5)

def without_weight(ops: Operations, x: Tensor) -> Tensor:
    return ops.rms_norm(x, 1e-5)

right: Operations = Ops()
wrong: Operations = Half()
"""


@pytest.mark.nightly  # mypy reads tinygrad, which takes half a minute
def test_mypy_sees_a_part_that_asks_for_what_there_is_not(tmp_path: Path) -> None:
    (tmp_path / "part.py").write_text(WRONG)
    command = [sys.executable, "-m", "mypy", "--config-file", str(tiny.ROOT / "pyproject.toml")]
    done = subprocess.run(
        [*command, "--cache-dir", str(tmp_path / "cache"), str(tmp_path / "part.py")],
        capture_output=True,
        text=True,
        cwd=tiny.ROOT,
    )
    lines = [int(line.split(":")[1]) for line in done.stdout.splitlines() if re.search(r"part.py:\d+: error", line)]
    said = WRONG.splitlines()
    assert [said[n - 1].strip() for n in lines] == [
        "return ops.rms_nrom(x, x, 1e-5)",
        "return ops.rms_norm(x, 1e-5)",
        "wrong: Operations = Half()",
    ], done.stdout
