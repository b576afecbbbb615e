"""The process belongs to the user: threads, forks and streams may use a model as they like; nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import models
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a child is refused")


def child(code: str, **environment: str) -> list[str]:
    """Lines that a fresh process prints."""
    paths = os.pathsep.join([str(tiny.ROOT), str(tiny.ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        text=True,
        capture_output=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()


# -- threads -----------------------------------------------------------------------------------------------------------
HAMMER = """
import random, threading
import models
one, two = models.opened(0), models.opened(1)
jobs = [(kind, i) for i in range(12) for kind in ("logits", "text", "stream")]
def done(model, job):
    kind, i = job
    if kind == "logits":
        return model.logits([[i, i + 1] * (1 + i)] * (1 + i % 2)).tobytes()
    events = model.generate("ab"[: i % 3] + "c", n=1 + i % 2, seed=i) if kind == "text" else \\
        list(model.stream("abc"[: 1 + i % 3], n=2, seed=i))
    return repr([(e.text, getattr(e, "token", None)) for e in events])
found, errors = [], []
def work(seed):
    pick = random.Random(seed)
    try:
        for _ in range(20):
            model, job = pick.choice((0, 1)), pick.choice(jobs)
            found.append((model, job, done((one, two)[model], job)))
    except BaseException as error:
        errors.append(repr(error))
        raise
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
[t.start() for t in threads]
[t.join() for t in threads]
expected = {(m, j): done((one, two)[m], j) for m in (0, 1) for j in jobs}
print(len(found), sum(text != expected[m, j] for m, j, text in found), len(set(expected.values())) > 40, errors)
"""


def test_threads_on_one_model_and_on_two_get_what_one_thread_gets() -> None:
    """From the first call on, which captures graphs."""
    assert child(HAMMER) == ["100 0 True []"]


def test_a_stream_holds_up_nobody_between_its_tokens() -> None:
    model, got = models.opened(), []
    stream = model.stream("a", seed=1)
    next(stream)
    other = threading.Thread(target=lambda: got.append(model.logits([1, 2]).shape), daemon=True)
    other.start()
    other.join(60)
    assert got == [(1, 2, model.plan.model.vocab)]


# -- streams -----------------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "bc", "a longer prompt, of another bucket"]), st.integers(1, 2)),
        min_size=2,
        max_size=3,
    ),
    st.data(),
)
def test_streams_of_one_model_take_turns_and_do_not_mix(asked: list[tuple[str, int]], data: st.DataObject) -> None:
    model = models.opened()
    alone = [[(e.row, e.token) for e in model.stream(prompt, n=n, seed=i)] for i, (prompt, n) in enumerate(asked)]
    running = {i: model.stream(prompt, n=n, seed=i) for i, (prompt, n) in enumerate(asked)}
    found: list[list[tuple[int, int]]] = [[] for _ in asked]
    while running:
        i = data.draw(st.sampled_from(sorted(running)))
        event = next(running[i], None)
        if event is None:
            del running[i]
        else:
            found[i].append((event.row, event.token))
        if data.draw(st.integers(0, 9)) == 0:
            model.generate("between", max_tokens=2)
    assert found == alone


def test_the_caches_of_ended_and_of_abandoned_streams_are_freed() -> None:
    from tinygrad.helpers import GlobalCounters

    model = models.opened()

    def stream() -> None:
        tokens = model.stream("a", n=2, seed=1)
        next(tokens), next(tokens)

    model.generate("b", n=2)
    held = GlobalCounters.mem_used
    for _ in range(5):
        stream()
        model.generate("b", n=2)
    assert GlobalCounters.mem_used <= held


# -- forks -------------------------------------------------------------------------------------------------------------
FORK = """
import multiprocessing, os, signal, threading
import models
model = models.opened()
first, text = model.logits([1, 2, 3]).tobytes(), model.generate("a", seed=1)[0].text
stop = threading.Event()
def hammer():
    while not stop.is_set():
        model.logits([1, 2, 3])
def again(rows):
    signal.alarm(90)
    same = model.logits([1, 2, 3]).tobytes() == first and model.generate("a", seed=1)[0].text == text
    new = model.logits([[5] * 20] * rows)  # a graph that the parent has not
    other = models.opened(1).logits([[5] * 20] * rows)  # a model that the parent has not
    return same, bool((new == new[:1]).all()), bool((new != other).any())
if __name__ == "__main__":
    threads = [threading.Thread(target=hammer, daemon=True) for _ in range(2)]
    [t.start() for t in threads]
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        print(pool.map_async(again, [2, 3]).get(90))
    for rows in (2, 4):
        pid = os.fork()
        if not pid:
            good = again(rows) == (True, True, True)
            os._exit(0 if good else 9)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    stop.set()
    [t.join() for t in threads]
    print(model.logits([1, 2, 3]).tobytes() == first, again(2))
"""


@linux
def test_children_go_on_with_a_copy_while_threads_of_the_parent_compute() -> None:
    assert child(FORK) == [str([(True, True, True)] * 2), "0", "0", "True (True, True, True)"]


REFUSED = """
import os
from llmspec.backends.cpu.toolchain import prepare
prepare()
from tinygrad import Tensor
Tensor([1.0]).realize()  # somebody else's CPU, whose memory children share
import models
model = models.opened()
model.logits([1])
if not os.fork():
    for _ in range(2):
        try:
            model.logits([1])
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    os._exit(0)
os.wait()
print("parent:", model.logits([1]).shape)
"""


def test_a_child_that_cannot_go_on_is_told_so_and_how() -> None:
    said = child(REFUSED)
    assert sum(line.startswith("RunError this process was forked from one that had opened") for line in said) == 2
    assert sum("spawn" in line for line in said) == 2 and said[-1].startswith("parent: (1, 1,")


# -- what is left behind -----------------------------------------------------------------------------------------------
BLAS = """
import numpy, threadpoolctl
import models
from llmspec.backends import owner
from llmspec.backends.cpu import native, products
products.MEASURED = ()  # as on a processor whose tiles have not been compared with a BLAS
threads = lambda: [i["num_threads"] for i in threadpoolctl.threadpool_info() if i["user_api"] == "blas"]
for wanted in (3, 2):
    with threadpoolctl.threadpool_limits(wanted, "blas"):
        model = models.opened(wanted)
        stream = model.stream("a")
        seen = [threads()]
        model.logits([[1, 2, 3]]), seen.append(threads())
        model.generate("a"), seen.append(threads())
        next(stream), seen.append(threads())
        print(wanted, all(s == [wanted] for s in seen))
print(native.products().startswith("openblas"))
with owner.turn():
    print(threads())
"""


def test_numpys_blas_has_the_threads_that_it_had() -> None:
    found = child(BLAS)
    if found[2] != "True":
        pytest.skip("numpy has another BLAS")
    assert found == ["3 True", "2 True", "True", "[1]"]


def test_two_opened_models_do_not_change_each_other() -> None:
    one, two = models.opened(0), models.opened(1)
    before: Any = one.logits([1, 2, 3])
    assert (two.logits([1, 2, 3]) != before).any()
    np.testing.assert_array_equal(one.logits([1, 2, 3]), before)
