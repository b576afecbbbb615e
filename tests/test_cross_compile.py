"""GPUs without owning one: what a plan asks of them, and every kernel made for them on tinygrad's NULL device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import Phase, given, reject, settings
from hypothesis import strategies as st
from strategies import specs

from llmspec.backends import nvidia
from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.core import targets
from llmspec.core.problems import SpecError
from llmspec.model import cross_compile
from llmspec.model.device import Search, open_device
from llmspec.spec import load_spec
from llmspec.spec.schema import Spec

open_device("CPU")
from tinygrad import Tensor  # noqa: E402  (the compiler comes first)

from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.plain.backend import Backend  # noqa: E402
from llmspec.backends.plain.mixed_precision import MixedPrecisionOps  # noqa: E402
from llmspec.backends.plain.ops import Ops  # noqa: E402

SMALL = """\
name: small
device: CUDA
precision: bfloat16
model:
  context: 16
  d_model: 16
  layers: 1
  position: {kind: none}
  attention: {kind: multi_head, heads: 1, bias: false}
  mlp: {kind: relu, d_ff: 32}
tokenizer: {kind: byte}
data: {sources: {docs: {kind: python_docs, license: PSF-2.0}}}
phases: {pretrain: {kind: pretrain, mixture: {docs: 100%}, budget: 4 steps, micro_batch_size: 2,
    optimizer: {kind: sgd, lr: 1e-2}}}
"""
EPS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Largest relative error of a rounded operand."""
WHEELS = pytest.mark.skipif("NVRTC_PATH" not in nvidia.libraries(), reason="pip install 'llmspec[cuda]'")


def planned(folder: Path, *overrides: str) -> Plan:
    return compile_spec(load_spec(tiny.write(folder, SMALL), overrides).spec)


# -- what a spec may ask -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("key", "value"), [("precision", "bfloat16"), ("precision", "float16"), ("beam", "2")])
def test_a_cpu_refuses_what_only_a_gpu_does(tmp_path: Path, key: str, value: str) -> None:
    asked = ("precision=float32", "device=CPU", f"{key}={value}")
    with pytest.raises(SpecError) as caught:
        planned(tmp_path, *asked)
    (problem,) = caught.value.problems
    assert problem.path == (key,) and "CPU" in problem.message and "CUDA" in problem.hint and problem.consequence
    plan = planned(tmp_path, *asked, "device=CUDA")
    assert Plan.parse(json.dumps(plan.dump())) == plan and str(getattr(plan, key)) == value
    assert plan.settings()[key] == getattr(plan, key)


def test_precision_and_beam_shape_the_keys_of_phases(tmp_path: Path) -> None:
    sets: list[tuple[str, ...]] = [("precision=float32",), (), ("precision=float16",), ("beam=2",)]
    keys = [planned(tmp_path, *overrides).phases[0].key for overrides in sets]
    assert len(set(keys)) == len(keys)
    assert planned(tmp_path, "beam=0").phases[0].key == keys[1]


def test_explain_shows_them(tmp_path: Path) -> None:
    said = tiny.call("explain", tiny.write(tmp_path, SMALL), "--set", "beam=2", COLUMNS="80").stdout
    assert "products in bfloat16" in said and "searches" not in said.split("model")[0].split("precision")[0]
    assert "2: the first steps search" in said


def test_targets_are_named_in_full_or_refused(tmp_path: Path) -> None:
    names = {"CUDA": "CUDA:sm_90", "cuda:sm_80": "CUDA:sm_80", "METAL": "METAL:Apple7", "metal:Apple9": "METAL:Apple9"}
    assert {text: targets.parse(text).name for text in names} == names
    for text in ("AMD", "CPU", "", "CUDA:90", "METAL:sm_90", "CUDA:sm_90:0"):
        with pytest.raises(SpecError):
            targets.parse(text)
    with pytest.raises(SpecError, match="no bfloat16"):
        targets.parse("CUDA:sm_75").refuse("bfloat16")
    targets.parse("CUDA:sm_75").refuse("float16")


# -- rounded products ----------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=6)
@given(
    st.sampled_from(sorted(EPS)),
    st.sampled_from([((3, 5), (5, 2)), ((2, 3, 16), (16, 4)), ((2, 1, 7), (2, 7, 3))]),
    st.sampled_from([1e-9, 1.0, 1e6]),
    st.integers(0, 99),
)
def test_rounded_products_and_their_gradients(precision: str, shapes: Any, scale: float, seed: int) -> None:
    """Within the bound of twice rounded operands, |error| ≤ 2.1·ε·|A||B|; gradients too, however small or large.

    A sum of one product is no sum: tinygrad rounds it as a product of two such numbers, once more.
    """
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    up = (rng.standard_normal((a @ b).shape) * scale).astype(np.float32)
    x, y = Tensor(a), Tensor(b)
    out = MixedPrecisionOps(precision).product(x, y)
    found = [t.numpy() for t in (out, *(out * Tensor(up)).sum().gradient(x, y))]
    a64, b64, g64 = (v.astype(np.float64) for v in (a, b, up))

    def back(a: Any, b: Any, g: Any) -> list[Any]:
        of_b = np.swapaxes(a, -1, -2) @ g
        return [a @ b, g @ np.swapaxes(b, -1, -2), of_b.sum(0) if b.ndim < of_b.ndim else of_b]

    exact, bound = back(a64, b64, g64), back(*(np.abs(v) for v in (a64, b64, g64)))
    for got, right, most in zip(found, exact, bound, strict=True):
        # What float16 loses at its lower end is small beside the largest gradient.
        slack = 2.0**-24 * np.abs(most).max() * 8
        roundings = 3.1 if 1 in shapes[0] else 2.1
        assert (np.abs(got - right) <= roundings * EPS[precision] * most + slack).all()


def test_the_square_of_a_tensor_has_its_gradient() -> None:
    x = Tensor(np.eye(3, dtype=np.float32) * 2)
    (gradient,) = MixedPrecisionOps("bfloat16").product(x, x).sum().gradient(x)
    np.testing.assert_allclose(gradient.numpy(), np.full((3, 3), 4.0))


# -- nothing that only a CPU can do --------------------------------------------------------------------------------
@settings(deadline=None, max_examples=2, phases=[Phase.explicit, Phase.generate])
@given(specs(), st.sampled_from(["CUDA", "METAL", "NV", "AMD"]), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_a_gpu_gets_plain_operations_alone(data: dict[str, Any], device: str, precision: str) -> None:
    try:
        plan = compile_spec(Spec.model_validate_json(json.dumps({**data, "device": device})))
    except SpecError:  # drawn without looking at the device
        reject()
    chosen = backend(device, precision=precision)
    assert not chosen.inputs and type(chosen.ops({})) is (Ops if precision == "float32" else MixedPrecisionOps)
    assert calls(plan, chosen) == {"SINK"}


def test_the_same_graphs_on_a_cpu_call_c(tmp_path: Path) -> None:
    """So that the law above says something."""
    plan = planned(tmp_path, "device=CPU", "precision=float32")
    assert "CALL" in calls(plan, backend("CPU"))


def calls(plan: Plan, chosen: Backend) -> set[str]:
    """What a plan's training and evaluation launch, and any call inside its kernels."""
    from tinygrad.uop.ops import Ops as Kinds

    from llmspec.model import graph_memory

    found = set()
    for phase in plan.phases:
        built = graph_memory.Phase(plan, phase, chosen)
        for graph in (*built.train(), built.evaluate()):
            for body in (call.src[0] for call in graph.linear.src):
                found |= {body.op.name} | {u.op.name for u in body.toposort() if u.op in (Kinds.CALL, Kinds.CUSTOM)}
    return found


# -- kernels -------------------------------------------------------------------------------------------------------
def test_kernels_for_metal_are_rendered(tmp_path: Path) -> None:
    said: list[str] = []
    made = cross_compile.make(planned(tmp_path, "device=METAL"), targets.parse("METAL"), said.append)
    assert not made.compiled and "macOS" in made.why_not and not made.problems() and len(said) > 4
    assert {step.name for step in made.steps} == {
        "pretrain, training step",
        "pretrain, evaluation",
        "prefill",
        "decode step",
    }
    assert uses_tensor_cores(made) >= 4 and max(k.render_seconds for k in made.kernels) < 10


@WHEELS
def test_kernels_for_cuda_compile(tmp_path: Path) -> None:
    """As a person asks for it, with the figures for machines."""
    done = tiny.call(
        "check",
        tiny.write(tmp_path, SMALL),
        "--device",
        "CUDA:sm_90",
        "--json",
        PYTHONPATH=os.pathsep.join([str(tiny.ROOT), *sys.path]),
    )
    assert done.returncode == 0, done.stderr
    assert "CUDA:sm_90: prefill" in done.stderr
    made = cross_compile.Made.model_validate_json(json.dumps(json.loads(done.stdout)["kernels"]))
    assert made.compiled and all(k.compile_seconds is not None for k in made.kernels)
    assert uses_tensor_cores(made) >= 4


def uses_tensor_cores(made: cross_compile.Made) -> int:
    return sum(k.tensor_cores for k in made.kernels)


def test_a_kernel_that_does_not_compile_is_a_problem() -> None:
    class Refusing:
        def compile_cached(self, source: str) -> bytes:
            from tinygrad.device import CompileError

            raise CompileError("Nvrtc Error 6, NVRTC_ERROR_COMPILATION\n<null>(3): error: no such thing\n1 error")

    watching = cross_compile.Watching(Refusing())
    assert watching.compile_cached("") == b"" and watching.error == "<null>(3): error: no such thing"
    kernel = cross_compile.Kernel(
        name="E_4",
        step="prefill",
        lines=3,
        tensor_cores=False,
        render_seconds=0.1,
        compile_seconds=watching.seconds,
        error=watching.error,
    )
    made = cross_compile.Made(
        target="CUDA:sm_90", precision="float32", compiled=True, steps=(), kernels=(kernel,), seconds=1.0
    )
    (problem,) = made.problems()
    assert "E_4" in problem.message and "no such thing" in problem.message


def test_the_search_tells_its_cost_and_how_far_it_is() -> None:
    heard: list[str] = []
    search = Search(say=heard.append)
    assert search(lambda n: n + 1)(1) == 2 and search.kernels == 1 and "1 kernels" in search.told() and not heard
    search.seconds = 100.0
    search(str)(1)
    search(str)(1)
    assert len(heard) == 1 and "2 so far, in 1m40s" in heard[0]


# -- a device that is not here -------------------------------------------------------------------------------------
@pytest.mark.parametrize("verb", [("run",), ("check", "--time"), ("bench", "--only", "train")])
def test_a_device_that_is_not_here_is_told_not_traced(verb: tuple[str, ...], tmp_path: Path) -> None:
    done = tiny.call(*verb, tiny.write(tmp_path), "--set", f"device={tiny.ABSENT}", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{tiny.ABSENT} cannot be opened" in done.stderr and "hint" in done.stderr


SEARCHED = """
from llmspec.model.device import open_device, search
open_device("NULL", 1)
from tinygrad import Tensor
(Tensor.empty(64, 64) @ Tensor.empty(64, 64)).realize()
import sqlite3, tinygrad.helpers
tables = sqlite3.connect(tinygrad.helpers.CACHEDB).execute("select name from sqlite_master").fetchall()
print(search.kernels, tinygrad.helpers.CACHEDB, any(name.startswith("beam_search") for name, in tables))
"""


def test_what_beam_finds_is_kept_in_our_own_cache(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("CACHEDB", "DEV", "BEAM")}
    done = subprocess.run(
        [sys.executable, "-c", SEARCHED],
        capture_output=True,
        text=True,
        check=True,
        env={**environment, "PYTHONPATH": str(tiny.ROOT), "LLMSPEC_CACHE": str(tmp_path / "cache"), "PARALLEL": "0"},
    )
    searched, database, kept = done.stdout.split()
    assert searched == "1" and Path(database).is_relative_to(tmp_path / "cache") and kept == "True"
