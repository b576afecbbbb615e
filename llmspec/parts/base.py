"""What every part is, and the small values that parts and compiler exchange.

Shape letters: B batch, T tokens, S keys, D model width, H query heads, K key/value heads, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from llmspec.core.problems import Problem

Role = Literal["embedding", "matrix", "head", "norm", "bias", "buffer"]
"""What a tensor is; a matrix may be a stack of equal ones (copies, outputs, inputs), and a buffer is never trained."""


class Frozen(BaseModel):
    """A strict, frozen value whose fields are its YAML keys."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        defer_build=True,
    )


class Part(Frozen):
    """A part of a spec. Its fields are its YAML keys; `kind:` picks it from the table of its folder."""

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """The value of its `kind:`; each part has it as a field."""

    formula: ClassVar[str] = ""
    """What it computes, in one line; empty where that is no formula."""
    revision: ClassVar[int] = 1
    """Changes when the part's meaning does, so that results made with the old meaning are not reused."""
    effects: ClassVar[dict[str, tuple[str, str]]] = {}
    """Key of a number -> what would happen if float32 made 0 of it, and infinity (or 1, where it has to be less)."""
    in_float64: ClassVar[tuple[str, ...]] = ()
    """Keys of numbers that only the host computes with, in float64."""
    in_training: ClassVar[tuple[str, ...]] = ()
    """Keys that change what training does, and never what a trained model computes."""

    def strained(self) -> Iterable[Problem]:
        """What is wrong with numbers that float32 holds, since it does not hold what the graph makes of them."""
        return ()

    def lone(self) -> Iterable[Problem]:
        """What is wrong with it where it is given by itself, and not within a part of its own kind."""
        return ()

    def identity(self) -> dict[str, Any]:
        """JSON-able value that addresses what this part does: its settings and its version."""
        return {**self.model_dump(mode="json", by_alias=True), "revision": self.revision}


def limits(annotation: Any) -> Iterator[Any]:
    """The rules, such as `lt=1`, that stand in an annotated type, such as a member of a union."""
    for more in getattr(annotation, "__metadata__", ()):
        yield from getattr(more, "metadata", (more,))


def name_of(part: type[Part]) -> str:
    """Kind and name of a part, such as `optimizers.muon`; for a class of somebody else, its whole name."""
    folder, _, file = part.__module__.rpartition(".")
    ours = folder.startswith(__name__.rpartition(".")[0] + ".")
    return f"{folder.rpartition('.')[2]}.{file}" if ours else f"{part.__module__}.{part.__qualname__}"


def parts_of(value: Any) -> Iterator[tuple[str, Part]]:
    """(kind and name, such as `optimizers.muon`; part) of every part in a value, however deep."""
    if isinstance(value, Part):
        yield name_of(type(value)), value
    if isinstance(value, Frozen):
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for below in value:
            yield from parts_of(below)


def revisions_of(value: Any) -> dict[str, int]:
    """Revision of every part in a value, however deep."""
    return {name: part.revision for name, part in sorted(parts_of(value), key=lambda one: one[0])}


@dataclass(frozen=True)
class Dims:
    """The numbers that shape a model. Unit: elements."""

    d_model: int
    layers: int
    context: int
    vocab: int
    heads: int = 1
    kv_heads: int = 1
    head_dim: int = 1
    keys: int = 0
    """The most keys that a query of a full context sees; the context unless a mask has a window."""
    sources: float = 1.0
    """Tokens that keys and values are made of, for each query: 1 where a text looks at itself."""
    looks_ahead: bool = False
    """Whether a token may see later ones."""

    @property
    def seen(self) -> int:
        return self.keys or self.context


class Default(NamedTuple):
    """A value chosen for a key that the spec left open, and why."""

    value: Any
    why: str


class Init(Frozen):
    """How a tensor starts: zeros, ones, or normal with standard deviation `std`."""

    distribution: Literal["zeros", "ones", "normal"] = "normal"
    std: float = 0.0


class TensorSpec(NamedTuple):
    """A weight that a part wants: a name relative to the part, a shape, what it is, how it starts.

    `residual` marks the projection that writes into the residual stream (initialised smaller in deep models).
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    residual: bool = False
    zeros: bool = False
    """Whether it starts as zeros, whatever its role."""


class InputSpec(NamedTuple):
    """An array that a graph reads anew at every call: its shape, and its type as numpy and tinygrad call it."""

    shape: tuple[int, ...]
    dtype: Literal["int32", "float32", "uint32"]
    ids: bool = False
    """Whether it holds token ids, which are checked before a graph reads them."""

    @property
    def nbytes(self) -> int:
        """Bytes; every type has four of them a number."""
        return 4 * math.prod(self.shape)


class ElementwiseOps(NamedTuple):
    """Operations that are no matrix product, per token: what the plain backend does in a forward and a backward pass.

    Estimates, counted in tinygrad's kernels (as `GlobalCounters` does: a multiplication, a comparison or a choice is
    one operation, indexing is none).
    """

    forward: float = 0.0
    backward: float = 0.0

    def times(self, factor: float) -> ElementwiseOps:
        return ElementwiseOps(self.forward * factor, self.backward * factor)

    def plus(self, *others: ElementwiseOps) -> ElementwiseOps:
        return ElementwiseOps(
            self.forward + sum(o.forward for o in others), self.backward + sum(o.backward for o in others)
        )


class ModelPart(Part):
    """A part that lives inside the network: it declares tensors, costs FLOPs and builds a function.

    `build(dims)` returns a function whose first arguments are always `ops` (the device's operations) and
    `w` (this part's weights by relative name); it imports no tensor library.
    """

    adds_losses: ClassVar[tuple[str, ...]] = ()
    """Names of the losses that it adds to the objective's in training (`ops.add_loss`), such as one that balances
    experts; each is a metric of its own."""
    adds_metrics: ClassVar[tuple[str, ...]] = ()
    """Names of what it counts in training (`ops.add_metric`), such as experts that no token took."""

    def defaults(self, dims: Dims) -> dict[str, Default]:
        """Values for the keys that are None."""
        return {}

    def check(self, dims: Dims) -> Iterable[Problem]:
        """What is wrong with these settings in a model of these dimensions."""
        return ()

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        """The weights, in the order of use."""
        return ()

    def active(self, dims: Dims) -> int:
        """Number of its weights that one token uses: all of them, but where a router chooses."""
        return sum(math.prod(t.shape) for t in self.tensors(dims))

    def flops(self, dims: Dims) -> float:
        """Floating-point operations of the matrix products of one forward pass, per token (a multiply-add is two)."""
        return sum((self.product(t, dims) for t in self.tensors(dims) if t.role == "matrix"), 0.0)

    def product(self, matrix: TensorSpec, dims: Dims) -> float:
        """The same of the product with one of its matrices."""
        return 2.0 * math.prod(matrix.shape)

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The other operations, estimated."""
        return ElementwiseOps()

    def saved_for_backward(self, dims: Dims) -> float:
        """Numbers per token that the backward pass reads and the forward pass therefore keeps."""
        return 0.0

    def dropped(self, dims: Dims) -> float:
        """Numbers per token at its own site of dropout, within it."""
        return 0.0

    def build(self, dims: Dims) -> Any:
        raise TypeError(f"{type(self).__name__} builds nothing")
