"""What goes wrong within C is told in Python: memory that ends, indices that lead out of their tables."""

from __future__ import annotations

import ast
import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kernel_cases
import models
import numpy as np
import pytest
from attention_cases import ATTENTION
from expert_cases import EXPERTS
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import check, mislead, trouble

from llmspec.core.problems import RunError
from llmspec.model.device import open_device

open_device("CPU")

from tinygrad import Tensor  # noqa: E402  (the compiler comes first)

from llmspec.backends import owner  # noqa: E402
from llmspec.backends.backend import backend  # noqa: E402
from llmspec.backends.cpu import native  # noqa: E402
from llmspec.backends.cpu.captured_step import CapturedStep, overlap  # noqa: E402
from llmspec.backends.tensors import tensors_from_numpy  # noqa: E402
from llmspec.data.inputs import read_ids  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {**kernel_cases.PRODUCTS, **kernel_cases.ROW_MAKERS, **ATTENTION, **EXPERTS}
WITH_INDICES = {
    "gather_rows",
    "router_backward",
    "dispatch",
    "dispatch_backward",
    "combine",
    "combine_backward",
    "grouped_linear",
    "grouped_linear_backward",
    "grouped_held",
    "scatter_rows",
    "linear_cross_entropy",
    "rotate",
    "attention",
    "attention_backward",
}


def test_no_index_leads_out_of_its_table() -> None:
    assert mislead(native.library(), MAKERS) == WITH_INDICES


@pytest.mark.parametrize("replayed", [True, False])
@pytest.mark.parametrize("id_", [7, -1, 2**31 - 1])
def test_a_step_that_reads_a_wrong_id_ends_in_a_sentence(id_: int, replayed: bool) -> None:
    low = backend("CPU")

    def step(inputs: dict[str, Tensor]) -> Tensor:
        return low.ops(inputs).embedding(inputs["w"], inputs["ids"]).sum().realize()

    jit, w = CapturedStep(step, replayed), np.ones((7, 3), np.float32)
    feed = lambda *ids: {**tensors_from_numpy(w=w, ids=np.array(ids, np.int32)), **low.inputs}
    assert jit(feed(0, 6)).item() == 6
    with pytest.raises(RunError, match=f"{id_} was looked up in a table of 7 rows"):
        jit(feed(0, id_))
    assert jit(feed(0, 6)).item() == 6


FAILING = """
import ctypes
import numpy as np
from kernels import _once, check, edged, trouble
from kernel_cases import PRODUCTS, ROW_MAKERS
from attention_cases import ATTENTION
from expert_cases import EXPERTS
from llmspec.backends.cpu import native  # noqa: E402
library = native.library()
found = {}
for bytes_ in (0, 64 << 10, 1 << 40):
    library.limit_memory(ctypes.c_int64(bytes_))
    for maker in {**PRODUCTS, **ROW_MAKERS, **ATTENTION, **EXPERTS}.values():
        for case in maker(lambda values: values[-1]):
            _once(library, case, 0, edged)
            kind, wanted, _ = trouble(library)
            found.setdefault(case.function, []).append(kind)
            assert kind == 0 or wanted > bytes_
            if bytes_ == 1 << 40:
                check(library, case)
print(sorted(name for name, kinds in found.items() if 1 in kinds))
print(sorted(name for name, kinds in found.items() if kinds[-1]))
"""


def child(code: str, **environment: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths, "DEV": "CPU", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("threads", ["1", "3"])
def test_memory_that_ends_is_told_and_the_process_goes_on(threads: str) -> None:
    """An allocator that refuses, for every function; with memory again all are right."""
    failed, after = child(FAILING, LLMSPEC_THREADS=threads).splitlines()
    assert after == "[]"
    need = {
        "matmul",
        "grouped_linear",
        "grouped_linear_backward",
        "grouped_held",
        "linear",
        "linear_backward",
        "linear_by_sequence",
        "linear_cross_entropy",
        "linear_cross_entropy_backward",
        "muon",
        "rms_norm_backward",
        "qk_norm_backward",
        "layer_norm_backward",
        "square_sum",
        "attention",
        "attention_backward",
    }
    assert set(ast.literal_eval(failed)) == need


LIMITED = """
import resource
import models
from llmspec.core.problems import RunError
model = models.opened()
before = model.logits([1, 2, 3]).tobytes()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
most = resource.getrlimit(resource.RLIMIT_AS)[1]
resource.setrlimit(resource.RLIMIT_AS, (held + (48 << 20), most))
for ask in (lambda: model.logits([[1] * 48] * 3000), lambda: model.decoder.cache(20_000)):
    try:
        ask()
        print("went on")
    except RunError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, (most, most))
print(model.logits([1, 2, 3]).tobytes() == before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_process_that_may_have_no_more_memory_is_told_so() -> None:
    said = child(LIMITED)
    assert said.count("out of memory: ") == 2 and said.count("hint: a smaller batch") == 2
    assert said.endswith("True\n")


def test_what_no_machine_has_is_refused_before_it_is_asked_for() -> None:
    model = models.opened()
    with pytest.raises(RunError, match=r"the KV caches of 9000000000 rows take .* and this machine has"):
        model.decoder.cache(9_000_000_000)
    with pytest.raises(RunError, match=r"the logits of 1000000 rows take .* this machine has"):
        model.logits(np.broadcast_to(np.ones(1, np.int32), (1_000_000, 48)))


@pytest.mark.parametrize("error", [MemoryError("no room for 3 GiB"), OSError(12, "Cannot allocate memory")])
def test_memory_that_ends_within_a_turn_is_a_sentence(error: BaseException) -> None:
    with pytest.raises(RunError, match=r"out of memory: .*(3 GiB|Cannot allocate)"), owner.turn():
        raise error
    with pytest.raises(OSError, match="disk"), owner.turn():
        raise OSError(28, "disk")


pieces = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)).map(lambda p: range(p[0], p[0] + p[1])), max_size=4)


@settings(max_examples=300)
@given(pieces, pieces)
def test_overlap_is_a_byte_in_common(some: list[range], others: list[range]) -> None:
    bytes_of = lambda ranges: {b for r in ranges for b in r}
    assert overlap(some, others) == bool(bytes_of(some) & bytes_of(others))


def test_trouble_is_told_once_and_of_several_the_first() -> None:
    library = native.library()
    (case,) = [c for c in kernel_cases.ROW_MAKERS["table"](lambda values: values[-1]) if c.function == "gather_rows"]
    out, given_ = np.zeros(case.outputs[0].exact.shape, np.float32), list(case.given)  # type: ignore[union-attr]
    pointer: Any = lambda array: ctypes.c_void_p(array.ctypes.data)
    for wrong in (-3, -4):
        given_[1] = np.full_like(given_[1], wrong)
        library.gather_rows(pointer(out), *map(pointer, given_), *map(ctypes.c_int64, case.numbers))
    assert trouble(library) == (2, -3, case.numbers[-1]) and trouble(library)[0] == 0
    check(library, case)


@pytest.mark.parametrize("wrong", [-1, 24, 2**31 - 1])
def test_wrong_ids_in_a_batch_end_a_run_before_its_step(wrong: int) -> None:
    ids = np.arange(24, dtype=np.int32).reshape(2, 12)
    read_ids(ids, 24)
    ids[1, 3] = wrong
    with pytest.raises(RunError, match=f"the data hold token id {wrong}, and the model's ids are 0 … 23"):
        read_ids(ids, 24)
