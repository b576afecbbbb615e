"""One stretch of memory for many tensors: weights in large pages where the system has them, caches in small ones.

Decoding reads every weight for each token: in pages of 4 KB the addresses alone cost some 6 % of the time. tinygrad
maps each tensor by itself, and most matrices are smaller than a large page. A cache is the other way round: much of it
may never be written, and what is not takes no memory as long as nobody touches it.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Sequence

from tinygrad import Tensor

from llmspec.backends import owner
from llmspec.backends import tinygrad_private as private
from llmspec.backends.sharing import APART, LARGE_PAGE, private_pages

LINE, LEAST = 64, 8 * LARGE_PAGE


class Arena:
    """Memory for tensors of these sizes in bytes, taken one after another; it lives as long as one of them does."""

    def __init__(self, sizes: Sequence[int], zeros: bool = False) -> None:
        """With `zeros`, on Linux alone, all of it is 0, and takes room only where it is written to."""
        self.bytes = sum(map(_whole, sizes))
        self._memory: mmap.mmap | None = None
        # A large page is taken whole, so that few weights or small ones would take more than they need; and where the
        # system says nothing of large pages, tinygrad's own memory is as good.
        if sys.platform == "linux" and (zeros or (len(sizes) > 1 and self.bytes >= LEAST)):
            page = mmap.PAGESIZE if zeros else LARGE_PAGE
            self._memory = private_pages(self.bytes + page, large=not zeros)
            first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
            self._at = -(-first // page) * page
            self._end = self._at + self.bytes
            APART.add(self)

    def tensor(self, shape: tuple[int, ...], dtype: object) -> Tensor:
        """The next tensor, realized, its numbers not yet written; zeros need an axis at least."""
        with owner.turn():
            if self._memory is None or 0 in shape or not shape:
                return Tensor.empty(*shape, dtype=dtype, device="CPU")  # type: ignore[arg-type]
            made = Tensor.from_blob(self._at, shape, dtype=dtype, device="CPU")
            buffer = private.buffer_of(made)
            self._at += _whole(buffer.nbytes)
            if self._at > self._end:
                raise ValueError("more memory is taken of an arena than it was made for")
            private.keep_alive(buffer, self)
            return made


def _whole(size: int) -> int:
    return -(-size // LINE) * LINE
