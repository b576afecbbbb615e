"""What llmspec uses of tinygrad beside its promises lies in one module, and each name of it is in this tinygrad."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from llmspec.model.device import open_device

open_device("CPU")

from tinygrad import Device, Tensor  # noqa: E402  (the compiler comes first)

from llmspec.backends import tinygrad_private as private  # noqa: E402
from llmspec.core.problems import RunError  # noqa: E402

PACKAGE = tiny.ROOT / "llmspec"
PUBLIC = {
    "tinygrad": {"Tensor", "UOp", "dtypes", "Device", "Context", "TinyJit", "function"},
    "tinygrad.helpers": {"Context", "DEV", "GlobalCounters", "JIT"},
    "tinygrad.dtype": {"DType"},
}
"""What tinygrad documents, or shows in its examples."""
PATCHERS = {"backends/sharing.py", "backends/cpu/tinygrad_startup.py", "model/device.py", "model/cross_compile.py"}
"""Files that replace attributes of whole modules, those of PATCHED."""


def found(value: Any, path: str) -> bool:
    """Whether a value has an attribute, and that one the next."""
    for name in path.split("."):
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


@pytest.mark.parametrize("name", private.NAMES)
def test_each_name_is_in_tinygrad(name: str) -> None:
    module, use = private.NAMES[name]
    assert found(import_module(module), name), f"this tinygrad has no {module}.{name}: {use}"
    assert getattr(private, name) is getattr(import_module(module), name)


@pytest.mark.parametrize(("module", "path"), [(m, path) for m, paths in private.PATCHED.items() for path in paths])
def test_what_is_replaced_is_in_tinygrad(module: str, path: str) -> None:
    assert found(import_module(module), path), f"this tinygrad has no {module}.{path}, which llmspec replaces"


def objects() -> dict[str, Any]:
    """One of each kind of HELD."""
    tensor = Tensor(np.ones(3, np.float32)).contiguous().realize()
    jit = private.jit(lambda x: (x + 1).realize())
    jit(tensor)
    device = Device["CPU"]
    return {"buffer": private.buffer_of(tensor), "jit": jit, "devices": Device, "cpu": device, "tensor": tensor}


def test_what_tinygrads_objects_hold() -> None:
    held = objects()
    assert set(held) == set(private.HELD)
    gone = [f"{kind}.{path}" for kind, paths in private.HELD.items() for path in paths if not found(held[kind], path)]
    assert not gone, f"this tinygrad's objects have no {', '.join(gone)}"
    assert private.address_of(held["buffer"]) > 0 and "CPU" in private.opened_devices()


def test_a_name_that_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(private.NAMES, "nothing_like_it", private.Name("tinygrad.uop.ops", "nothing at all"))
    with pytest.raises(RunError, match=r"this tinygrad has no tinygrad\.uop\.ops\.nothing_like_it"):
        _ = private.nothing_like_it
    with pytest.raises(AttributeError):
        _ = private.no_name_of_ours


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a file takes from tinygrad."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tinygrad":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "tinygrad")


def test_nothing_else_imports_a_private_name() -> None:
    """Of whole modules, PATCHERS import those that they change."""
    files = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "tinygrad_private.py"]
    taken = {(str(p.relative_to(PACKAGE)), *names) for p in files for names in imported(p)}
    strange = {t for t in taken if t[2] not in PUBLIC.get(t[1], ())}
    wrong = {t for t in strange if t[0] not in PATCHERS}
    assert not wrong, "import it through llmspec.backends.tinygrad_private"
    assert {t[0] for t in strange} == PATCHERS, "fewer files patch tinygrad: say so in PATCHERS"
    whole = {t[1] if not t[2] else f"{t[1]}.{t[2]}" for t in strange}
    assert whole - {"tinygrad.helpers"} <= set(private.PATCHED) | {"tinygrad.engine.worker"}


def test_a_gpu_opens_nothing_of_the_cpu_backend() -> None:
    """NULL stands for a GPU: its steps are captured, and no module of backends/cpu is imported."""
    code = """
import sys
from llmspec.model.device import open_device
open_device("NULL")
import numpy as np
from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.training import engine, run, trainer
from llmspec.decoding import language_model
low = backend("NULL")
x = tensors_from_numpy(x=np.ones((3, 4), np.float32))
low.jit(lambda x: low.ops(low.inputs).rms_norm(x["x"], x["x"][0], 1e-5).realize())(x)
print(sorted(m for m in sys.modules if m.startswith("llmspec.backends.cpu")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_a_cpu_is_opened_without_mesa_and_its_renderer_is_there_when_asked_for() -> None:
    code = """
import sys
from llmspec.model.device import open_device
open_device("CPU")
from tinygrad import Device
assert "tinygrad.renderer.nir" not in sys.modules and "tinygrad.runtime.autogen.mesa" not in sys.modules
(stand_in,) = [r for r in Device["CPU"].renderers if r.__name__ == "LVPRenderer"]
target = Device["CPU"].renderer.target
try:
    made = stand_in(target)
except Exception as error:  # no Mesa here
    assert "tinygrad.renderer.nir" in sys.modules, error
else:
    assert type(made) is sys.modules["tinygrad.renderer.nir"].LVPRenderer
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.ROOT)
    assert found.returncode == 0, found.stderr
