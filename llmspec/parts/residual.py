"""How a block's branches join the residual stream, and where its norms stand."""

from __future__ import annotations

from typing import Literal, NamedTuple

Residual = Literal["pre", "post", "sandwich", "output", "parallel", "parallel_shared", "pre_mlp"]


class Form(NamedTuple):
    """Where norms stand around a branch f, and whether branches read one another."""

    before: bool = False
    """f(norm(x))"""
    after: bool = False
    """norm(f(…)), before the sum"""
    on_sum: bool = False
    """norm(x + f(…))"""
    parallel: bool = False
    """Whether all branches of a block read the same x, and one sum takes what they give."""
    shared: bool = False
    """Whether they read it through one norm."""
    bare: tuple[str, ...] = ()
    """Branches that read the stream as it is."""

    @property
    def final_norm(self) -> bool:
        """Whether the stream leaves the last block without a norm, so that one more stands before the heads."""
        return not self.on_sum


FORMS: dict[Residual, Form] = {
    "pre": Form(before=True),
    "post": Form(on_sum=True),
    "sandwich": Form(before=True, after=True),
    "output": Form(after=True),
    "parallel": Form(before=True, parallel=True),
    "parallel_shared": Form(before=True, parallel=True, shared=True),
    "pre_mlp": Form(before=True, bare=("attention",)),
}
"""By the value of `residual:`."""
