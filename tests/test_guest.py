"""The process belongs to the user: nothing of it changes, and variables that mean something else mean nothing to us."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny

HOSTILE = ("true", "dev", "repo/app:1", "", "0", "1", "2", "-1", "production")
READ_ON_PURPOSE = {
    "CC",
    "CACHEDB",
    "DEV",
    "CUDA_PATH",
    "LD_LIBRARY_PATH",
    "NVJITLINK_PATH",
    "NVRTC_PATH",
    "ROCM_PATH",
    "XDG_CACHE_HOME",
    "PATH",
    "HOME",
}
"""What says where something lies, or which compiler and device to take."""
KNOWN = {
    "DEBUG",
    "PROFILE",
    "IMAGE",
    "JIT",
    "SPEC",
    "VIZ",
    "TC",
    "BEAM",
    "NOOPT",
    "CACHELEVEL",
    "TRACEMETA",
    "NO_COLOR",
    "TYPED",
    "THREADS",
    "CPU_LLVM",
    "CPU",
    "GPU",
    "PORT",
    "BROWSER",
    "HALF",
    "DEBUG_GC",
    "CPU_CC",
    "PARALLEL",
}
"""Some that must be among them, or that are read under a name made up on the way."""
FORWARD = """
import json, os, sys
sys.setrecursionlimit(1000)
import llmspec
from llmspec.model.device import open_device
open_device("CPU")
import numpy as np
from tinygrad import Tensor
from tinygrad.helpers import ContextVar
from llmspec.backends.backend import backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.parts.ops import Linear
chosen = backend("CPU")
def step(weights, inputs):
    ops = chosen.ops(inputs)
    layer = Linear(weights["w"])
    return (ops.linear(ops.gelu(ops.linear(inputs["x"], layer)), layer) * 2).contiguous().realize()
made = tensors_from_numpy(w=np.full((8, 8), 0.1, np.float32), x=np.ones((4, 8), np.float32))
ones = {"w": made["w"]}, {"x": made["x"], **chosen.inputs}
jit = chosen.jit(step)
out = [jit(*ones).numpy().tobytes().hex() for _ in range(2)]
print(json.dumps([out, (Tensor([1.0, 2.0]) * 3).exp().numpy().tobytes().hex(),
                  {k: str(v.value) for k, v in ContextVar._cache.items() if k != "DEV"}]))
"""


@cache
def variables() -> frozenset[str]:
    """Every variable that tinygrad's source reads by a name that stands there."""
    package = Path(find_spec("tinygrad").submodule_search_locations[0])  # type: ignore[union-attr, index]
    found = set()
    for file in package.rglob("*.py"):
        if "autogen" in file.parts and file.name != "__init__.py":
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if called in ("getenv", "ContextVar", "_DEV", "get") and isinstance(node.args[0].value, str):
                    found.add(node.args[0].value)
    return frozenset(name for name in found if name.isidentifier() and name.upper() == name)


def clean(**more: str) -> dict[str, str]:
    """This environment without any of those variables."""
    ours = {k: v for k, v in os.environ.items() if k not in (variables() | KNOWN) - READ_ON_PURPOSE | {"DEV"}}
    return {**ours, "PYTHONPATH": str(tiny.ROOT), **more}


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, env=clean(**environment), timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """What is printed where no such variable is set, and a spec whose data has been read once."""
    folder = tmp_path_factory.mktemp("usual")
    spec = str(tiny.write(folder))
    tiny_call("check", spec)
    said = {verb: tiny_call(verb, spec) for verb in ("--help", "check", "check --json")}
    return python(FORWARD), {"spec": spec, **said}


def tiny_call(verb: str, spec: str, **environment: str) -> str:
    """What is printed with a cache of the spec's own: in another, other runs change the time foretold."""
    arguments = [verb] if verb == "--help" else [*verb.split()[:1], spec, *verb.split()[1:]]
    own = {**clean(**environment), "LLMSPEC_CACHE": str(Path(spec).parent / "cache")}
    done = subprocess.run(tiny.command(*arguments), text=True, capture_output=True, env=own, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_variables_are_found() -> None:
    assert len(variables()) > 100
    assert {"DEBUG", "IMAGE", "TYPED", "NO_COLOR", "TRACEMETA", "THREADS", "JITBEAM"} <= variables()


@pytest.mark.parametrize("value", HOSTILE)
def test_all_of_them_at_once_change_nothing(usual: tuple[str, dict[str, str]], value: str) -> None:
    hostile = dict.fromkeys((variables() | KNOWN) - READ_ON_PURPOSE, value)
    if value not in ("", "0", "1", "2", "-1"):
        hostile["DEV"] = value
    assert python(FORWARD, **hostile) == usual[0]
    for verb in ("--help", "check", "check --json"):
        said = tiny_call(verb, usual[1]["spec"], **hostile)
        if verb == "--help" and "NO_COLOR" in hostile:
            assert "Traceback" not in said and "Usage" in said
        else:
            assert said == usual[1][verb]


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "value"), list(itertools.product(sorted(KNOWN), HOSTILE)))
def test_each_alone_changes_nothing(usual: tuple[str, dict[str, str]], name: str, value: str) -> None:
    assert python(FORWARD, **{name: value}) == usual[0]


def test_what_is_meant_reaches_tinygrad() -> None:
    code = "import llmspec.backends; from tinygrad.helpers import DEBUG, NOOPT; print(DEBUG.value, NOOPT.value)"
    assert python(code, LLMSPEC_TINYGRAD="DEBUG=2  NOOPT=1", NOOPT="0").split() == ["2", "1"]


@pytest.mark.parametrize("text", ["DEBUG", "debug=1", "=1", "DEBUG=1,NOOPT", "DEBUG=many"])
def test_what_tinygrad_cannot_read_is_a_sentence(text: str) -> None:
    code = (
        "from llmspec.core.problems import RunError\nimport llmspec.backends\n"
        "try:\n  import tinygrad.helpers\nexcept RunError as error: print(error)"
    )
    assert "LLMSPEC_TINYGRAD" in python(code, LLMSPEC_TINYGRAD=text)


@pytest.mark.parametrize(("name", "value"), [("JIT", "0"), ("NOOPT", "1"), ("IMAGE", "2"), ("VIZ", "-1")])
def test_a_tinygrad_that_the_user_imported_keeps_what_it_read(
    name: str, value: str, usual: tuple[str, dict[str, str]]
) -> None:
    early = f"from tinygrad.helpers import ContextVar; assert str(ContextVar._cache[{name!r}].value) == {value!r}\n"
    assert python(early + FORWARD, **{name: value, "DEV": "CPU"}).count('"') == usual[0].count('"')


STATE = """
import ctypes, locale, logging, os, random, signal, sys, threading, warnings
import numpy as np
def state():
    return {
        "environment": dict(os.environ),
        "what children see": os.popen("env | grep -v '^_=' | sort").read(),
        "signals": {s: signal.getsignal(s) for s in signal.valid_signals() if s not in (9, 19)},
        "alarm": signal.getitimer(signal.ITIMER_REAL),
        "warnings": list(warnings.filters), "recursion": sys.getrecursionlimit(), "locale": locale.setlocale(0),
        "numpy errors": np.geterr(), "numpy prints": np.get_printoptions(),
        "numpy random": repr(np.random.get_state()), "random": random.getstate(),
        "logging": (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
        "threads": sorted(t.name for t in threading.enumerate() ),
        "excepthook": (sys.excepthook, threading.excepthook, sys.displayhook, sys.unraisablehook),
        "folder": os.getcwd(), "umask": (os.umask(0o22), os.umask(0o22))[1], "switch": sys.getswitchinterval(),
        "streams": (sys.stdout, sys.stderr, sys.stdin), "path": list(sys.path), "hash": sys.flags.hash_randomization,
        "open files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") and COUNT else 0,
    }
"""
WHOLE = (
    STATE.replace("COUNT", "False")
    + """
os.environ.update(CC="gcc", DEBUG="true", OWN="1")
warnings.simplefilter("error")
import llmspec
before = state()
def same(what):
    after = state()
    assert after == before, (what, {k: (before[k], after[k]) for k in before if before[k] != after[k]})
spec = llmspec.load_spec(sys.argv[1], ["phases.pretrain.budget=2 steps", "phases.chat.budget=2 steps",
                                       "tokenizer={kind: bpe, vocab: 300}"]).spec
same("load_spec")
plan = llmspec.compile(spec)
same("compile")
llmspec.run(plan, "run")
same("run")
model = llmspec.open("run")
same("open")
model.logits([[1, 2, 3]])
same("logits")
model.generate("one", n=2)
same("generate")
for event in model.stream("one"):
    same("stream")
print("same")
"""
)


def test_nothing_of_the_process_changes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHOLE, tiny.write(tmp_path)],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tiny.ROOT)},
        timeout=600,
    )
    assert done.stdout.strip().endswith("same"), done.stderr[-3000:]


EARLY = """
import sys
from tinygrad import Device, Tensor
from tinygrad.helpers import BEAM, DEBUG, DEV, JIT
import llmspec
def ours():
    return str(DEV.value), JIT.value, BEAM.value, DEBUG.value, Device.DEFAULT, Tensor([1.0]).device
before = ours()
assert before[4] == "PYTHON" and before[1] == 0, before
short = ["phases.pretrain.budget=2 steps", "phases.chat.budget=2 steps"]
plan = llmspec.compile(llmspec.load_spec(sys.argv[1], short).spec)
llmspec.run(plan, "run")
assert ours() == before, ours()
model = llmspec.open("run")
assert ours() == before, ours()
first = model.logits([[1, 2, 3]])
assert ours() == before, ours()
assert (model.logits([[1, 2, 3]]) == first).all() and model.generate("one")[0].text == model.generate("one")[0].text
for event in model.stream("one"):
    assert ours() == before and Tensor([2.0, 3.0]).sum().item() == 5.0
print("same")
"""


def test_a_tinygrad_of_the_users_own_keeps_its_device_and_settings(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY, tiny.write(tmp_path)],
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env=clean(DEV="PYTHON", JIT="0"),
        timeout=600,
    )
    assert done.stdout.strip().endswith("same"), done.stderr[-3000:]


def test_visits_that_overlap_leave_what_was_before() -> None:
    code = """
import sys, threading
from llmspec.backends import guest
sys.setrecursionlimit(1234)
first, second = guest.visit(), guest.visit()
first.__enter__(); second.__enter__(); assert sys.getrecursionlimit() == guest.DEPTH
first.__exit__(None, None, None); assert sys.getrecursionlimit() == guest.DEPTH
second.__exit__(None, None, None)
def work():
    for _ in range(3000):
        with guest.visit():
            assert sys.getrecursionlimit() == guest.DEPTH
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
print(sys.getrecursionlimit())
"""
    assert python(code).strip() == "1234"
