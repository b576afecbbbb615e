"""What tinygrad needs so that any thread may use it, one at a time, and the children of a fork.

tinygrad 0.14 maps memory that a child shares with its parent, so that each would write into the other's, and a child
waits for ever for a thread that it has not. Web servers and data loaders fork; what they fork goes on with a copy. Its
database of kernels answers no thread but the one that opened it.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import sqlite3
import sys
import threading
import weakref
from typing import Any

from llmspec.backends import owner, tinygrad_private, workers
from llmspec.core.devices import kind_of
from llmspec.core.problems import RunError

OURS: set[int] = set()
"""CPU devices, by id, all of whose memory is private."""
HARMLESS = ("CPU", "NPY", "PYTHON", "DISK", "NULL", "TINYFS")
REFUSED = "this process was forked from one that had opened a model, and {why}"
HINT = "start it with multiprocessing's `spawn` method, or open the model in the child alone"
CONSEQUENCE = "it would wait forever, or write into its parent's memory"
WAIT = 5.0
"""Seconds that another process may keep the database locked, before kernels are made without it."""
LARGE_PAGE = 2 << 20
"""Bytes."""
APART: weakref.WeakSet[Any] = weakref.WeakSet()
"""Memory of tensors that tinygrad does not count; each has `bytes`."""
_kept: list[Any] = []


class _AnyThread:
    """Stands for the module sqlite3: connections may be used by any thread, since `owner` lets one in at a time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sqlite3, name)

    def connect(self, *arguments: Any, **more: Any) -> sqlite3.Connection:
        return sqlite3.connect(*arguments, **{**more, "check_same_thread": False, "timeout": WAIT})


def share() -> None:
    """Lets every thread use tinygrad, and children where they can. Within a turn of `owner`; cheap to call again."""
    from tinygrad import helpers

    owner.after_fork(mend)

    shared: Any = helpers
    if not isinstance(shared.sqlite3, _AnyThread):
        shared.sqlite3 = _AnyThread()
        _kept.append(shared._db_connection)  # one that is open already is its thread's
        shared._db_connection = None


def private_memory(module: Any) -> None:
    """Lets tinygrad's CPU (its module) allocate memory that a fork copies instead of sharing it, in large pages where a
    tensor fills one: shared memory has none, as a rule."""
    allocator = module.CPUAllocator
    if sys.platform != "linux" or hasattr(allocator, "shared_alloc"):
        return
    allocator.shared_alloc = shared = allocator._alloc

    def alloc(self: Any, size: int, options: Any) -> Any:
        if options.external_ptr is not None:
            return shared(self, size, options)
        memory = private_pages(size)
        at = module.mv_address(memory)
        view = module.MMIOInterface(at, size, fmt="B")
        return module.HCQBuffer(at, size, meta=memory, view=view, owner=self.dev)

    allocator._alloc = alloc


def private_pages(size: int, large: bool = True) -> mmap.mmap:
    """Memory of this process's own, zeros; in large pages where the system has them and they are asked for, or else
    in small ones, each of which is taken when it is first written to."""
    memory = mmap.mmap(-1, size, mmap.MAP_ANON | mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    if size >= LARGE_PAGE:
        with contextlib.suppress(AttributeError, OSError):  # a Python or a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE if large else mmap.MADV_NOHUGEPAGE)
    return memory


def opened(device: Any) -> None:
    """A CPU has been opened with `private_memory`: children can use it."""
    OURS.add(id(device))


def mend() -> None:
    """In the child: threads of its own for every CPU. Raises RunError where something cannot be made anew."""
    from tinygrad import Device

    opened = tinygrad_private.opened_devices()
    others = sorted(d for d in opened if kind_of(d) not in HARMLESS)
    if others:
        raise _refused(f"{', '.join(others)} cannot be used by a child")
    devices: list[Any] = [Device[d] for d in sorted(opened) if kind_of(d) == "CPU"]
    if sys.platform != "linux" or not all(id(d) in OURS for d in devices):
        raise _refused("it shares memory with its parent here")
    _leave_to_parent()
    for device in devices:
        for worker in device.workers:
            _restart(device, worker)


def _leave_to_parent() -> None:
    """Connections and processes that are the parent's: held, so that nobody closes them here.

    A child compiles by itself: processes of its own would stay where it ends by os._exit.
    """
    from tinygrad import helpers
    from tinygrad.engine import worker

    shared: Any = helpers
    pool: Any = worker.worker_pool
    _kept.extend((shared._db_connection, pool, *workers.leave_to_parent()))
    shared._db_connection = None
    if pool is not None:
        pool._state = "CLOSE"  # or this process would close it when it ends
        worker.worker_pool = None
    shared.PARALLEL.value = 0


def _restart(device: Any, worker: Any) -> None:
    """Another thread in the place of one that the child has not; nothing was waiting when the parent forked."""
    semaphore = worker.sem._buf.va_addr
    _own_page(semaphore)
    for counter in (worker.put, worker.done):
        counter._buf.cpu_view().view(fmt="Q")[0] = 0
    words = (worker.ring._buf.va_addr, device.func_ptr("sem_wait")._buf.va_addr, worker.done._buf.va_addr, semaphore)
    loop = device.prgs[tinygrad_private.worker_prog].fxn
    worker.thread = threading.Thread(target=loop, daemon=True, args=[ctypes.c_uint64(word) for word in words])
    worker.thread.start()


def _own_page(semaphore: int) -> None:
    """The semaphore's page becomes this process's own: a child would wake its parent's thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    page = semaphore // mmap.PAGESIZE * mmap.PAGESIZE
    fixed = 0x10  # MAP_FIXED, which Python's module does not name
    if (
        libc.mmap(
            page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANON | fixed, -1, 0
        )
        != page
    ):
        raise _refused("its memory cannot be mapped anew")
    if libc.sem_init(ctypes.c_void_p(semaphore), 0, 0):
        raise _refused("no semaphore can be made")


def _refused(why: str) -> RunError:
    return RunError(REFUSED.format(why=why), HINT, CONSEQUENCE)
