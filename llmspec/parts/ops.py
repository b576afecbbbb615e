"""What parts may ask of the operations that they are given. They import no tensor library for it.

Shape letters: B batch, T queries, S keys, D width, H query heads, K key/value heads, d head width, N = H + 2K heads in
a row, V vocabulary, F hidden width of a feed-forward layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from tinygrad import Tensor as Tensor  # the one place where a part learns what a tensor is, and only to be checked

    from llmspec.parts.dropout import Site
    from llmspec.parts.updates import Rule


@dataclass(frozen=True, eq=False)
class Update:
    """What becomes of a weight and its states, in place."""

    rule: Rule
    written: tuple[Tensor, ...]
    """The weight, or what is trained in its place, and its states in the order of the rule."""
    g: Tensor
    """The gradient."""
    scale: Tensor
    """(1,): what the gradient is multiplied by."""
    scalars: Tensor
    """The numbers of this step, float32, the learning rate first."""


class Near(NamedTuple):
    """A trained bias of scores that hangs on the distance alone: a vector for each head, never a matrix of scores."""

    table: Tensor
    """(H, 2R - 1) float32: number R - 1 + p_key - p_query is added to a score, and distances are less than R."""
    queries: Tensor
    """(B or 1, T) int32: the queries' positions."""
    keys: Tensor
    """(B or 1, S) int32: the keys'; those of the keys that a query sees follow one another."""


class Scores(NamedTuple):
    """How attention makes scores of queries and keys: softcap(scale · q·k) + bias + near, mask and softmax.

    One description for every backend, forward and backward, so that a new term is added in one place.
    """

    scale: float | None = None
    """What products of queries and keys are multiplied with; 1/√d, d the head width, where None."""
    softcap: float | None = None
    """Bounds the scaled products softly, before the bias is added: x becomes softcap · tanh(x / softcap) (Gemma Team
    2024, arXiv:2408.00118, section 2). Positive; None for no bound."""
    bias: Tensor | None = None
    """A float32 tensor (B or 1, H, T, S) that is added; None for nothing."""
    bias_gradient: bool = False
    """Whether the bias is trained: its gradient is summed over the sequences that share it. A constant otherwise."""
    near: Near | None = None
    """A trained bias that is looked up by distance; None for nothing."""
    sinks: Tensor | None = None
    """(H,) float32: a trained score of each head that takes part in the softmax beside those of the keys, and has no
    value (gpt-oss, arXiv:2508.10925; Xiao et al. 2023, arXiv:2309.17453). None for nothing."""


class Kept(NamedTuple):
    """Keys or values of some rows, as a KV cache holds them: whole, or rounded."""

    values: Tensor
    """(R, S, K, d) float32 or float16; or int8, which `scales` belong to."""
    scales: Tensor | None = None
    """(R, S, K, d / 32) float16: what each 32 numbers of a head are multiplied with."""


HALF = "f16"
"""The type of weights in half precision."""
HALVES = (HALF, "bf16")
"""Types of weights that lie as numbers of 16 bits, which every operation can read."""


class WeightLayout(NamedTuple):
    """A matrix whose weights stay quantised in memory, or a stack of them: a type of `core.weight_types`, a shape."""

    type: str
    outputs: int
    inputs: int
    experts: int = 0
    """How many such matrices there are, one for each expert; 0 for a matrix that is no stack's."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(outputs, inputs), or (experts, outputs, inputs)."""
        return (*([self.experts] if self.experts else []), self.outputs, self.inputs)


class Linear(NamedTuple):
    """A linear layer, as it is read off the tensor table: weight (outputs, inputs), and bias (outputs,) if it has one.

    What else a layer may have, such as an adapter, has its place here, so that no part has to know of it.
    """

    weight: Tensor
    bias: Tensor | None = None
    quantised: WeightLayout | None = None
    """Where it is given, `weight` is what the device's backend has packed of such a matrix: int32 words; of HALVES,
    the matrix itself in float16 or bfloat16."""
    frozen: bool = False
    """Whether training leaves the weight as it is: no gradient of it is computed, and packed weights are read as the
    float32 numbers that they stand for, in products that have a gradient for their inputs."""
    adapter: Adapted | None = None
    """What is done to the layer's results."""


Adapted = Callable[["Operations", "Tensor", Linear, "Tensor"], "Tensor"]
"""f(ops, x, layer, y) -> y: the results (…, outputs) of a layer for x (…, inputs), adapted; the layer is given without
the adapter."""


def matrices(layers: Sequence[Linear]) -> list[Tensor]:
    """The weights of layers, (outputs, inputs) float32. Raises TypeError for those that a backend has packed, where
    another operation than a linear layer's, or another backend, meets them."""
    if any(layer.quantised is not None and layer.quantised.type not in HALVES for layer in layers):
        raise TypeError("these weights were packed for another backend; this one reads numbers, and trains")
    return [layer.weight if layer.quantised is None else layer.weight.float() for layer in layers]


def adapted(ops: Operations, x: Tensor, layers: Sequence[Linear], y: Tensor) -> Tensor:
    """What layers give for x (…, inputs), of what they give without their adapters (…, Σ outputs), side by side."""
    if all(layer.adapter is None for layer in layers):
        return y
    wide = [layer.quantised.outputs if layer.quantised else int(layer.weight.shape[0]) for layer in layers]
    made = [
        own if layer.adapter is None else layer.adapter(ops, x, layer._replace(adapter=None), own)
        for layer, own in zip(layers, y.split(wide, dim=-1) if len(layers) > 1 else [y], strict=True)
    ]
    return made[0] if len(made) == 1 else made[0].cat(*made[1:], dim=-1)


class RoutingRule(NamedTuple):
    """How a router chooses experts."""

    top_k: int
    """How many a token takes."""
    sigmoid: bool = False
    """Whether scores are sigmoids of the logits, each for itself; softmax otherwise."""
    normalise: bool = True
    """Whether the weights of a token's experts are divided by their sum."""
    scale: float = 1.0
    """What they are multiplied with at last."""


class Routing(NamedTuple):
    """Which experts each of N tokens takes, and where in the experts' rows it stands: one row for each choice, those of
    an expert together. A device may have rows that hold no token; everything but `weights` and `scores` is int32."""

    weights: Tensor
    """(N, k): what the outputs of a token's experts are multiplied with."""
    scores: Tensor
    """(N, E): what the router makes of its logits, softmax or sigmoid."""
    tokens: Tensor
    """(E,): how many tokens each expert has, of those that count; all together N · k where all do: none is dropped."""
    places: Tensor
    """(N · k,): the row of each choice."""
    choices: Tensor
    """(rows,): the choice that a row holds, n · k + its rank; -1 for none."""
    groups: Tensor
    """Where the experts' rows lie, as a device's products want it."""
    single: bool
    """Whether each sequence has one token, as in decoding."""


class WeightView(Protocol):
    """A part's weights, and the constant tables that it declares, by their names relative to the part."""

    def linear(self, name: str, /) -> Linear:
        """The linear layer of that name."""

    def __getitem__(self, name: str, /) -> Tensor: ...

    def __contains__(self, name: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def under(self, name: str, /) -> WeightView:
        """Those of a part inside the part."""


class LayerView(Protocol):
    """What the queries of one layer see."""

    @property
    def queries(self) -> Tensor:
        """(B or 1, T) int32: their positions."""

    @property
    def keys(self) -> Tensor:
        """(B or 1, S) int32: the keys' positions."""

    @property
    def ranges(self) -> Tensor:
        """(B or 1, T, 2) int32: the keys first … end - 1 that a query sees."""

    @property
    def cache(self) -> Callable[[Tensor, int], tuple[Kept, Kept] | None] | None:
        """f(qkv_BTNd, heads) takes new keys and values, which stand behind so many query heads, and gives all that the
        queries may see; None where those are the new ones alone."""


class CrossView(NamedTuple):
    """What queries see of another text."""

    keys_values: tuple[Tensor, Tensor]
    """(B, S, K, d) each."""
    ranges: Tensor
    """(B or 1, T, 2) int32: the keys first … end - 1 that a query sees."""


class Operations(Protocol):
    """The operations of a device. What each means is written in llmspec/backends/plain/ops.py, the reference.

    All are functions of float32 tensors unless they say otherwise; gradients flow through all of them but `rows`,
    `assign`, `square_sum` and what updates weights.
    """

    counted: Tensor | None
    """(B, T) int32 of the stack that runs: 0 for padding, which no loss of a part counts; None where all count."""

    # -- products ------------------------------------------------------------------------------------------------
    def matmul(self, a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor: ...

    def linear(self, x: Tensor, layer: Linear) -> Tensor: ...

    def linears(self, x: Tensor, layers: Sequence[Linear]) -> Tensor: ...

    def embedding(self, weight: Tensor, ids: Tensor, quantised: WeightLayout | None = None) -> Tensor: ...

    def rows(self, table: Tensor, ids: Tensor) -> Tensor: ...

    # -- shapes in memory ----------------------------------------------------------------------------------------
    def contiguous_barrier(self, x: Tensor) -> Tensor: ...

    def residual(self, x: Tensor, y: Tensor) -> Tensor: ...

    def assign(self, tensor: Tensor, value: Tensor) -> Tensor: ...

    # -- attention -----------------------------------------------------------------------------------------------
    def rotate(
        self, x_BTHd: Tensor, heads: int, cos: Tensor, sin: Tensor, p_BT: Tensor, *, interleaved: bool = False
    ) -> Tensor: ...

    def qk_norm(self, qkv_BTNd: Tensor, heads: int, q_weight: Tensor, k_weight: Tensor, eps: float) -> Tensor: ...

    def self_attention(self, qkv_BTNd: Tensor, heads: int, ranges: Tensor, scores: Scores) -> Tensor: ...

    def attention(self, q_BTHd: Tensor, k_BSKd: Tensor, v_BSKd: Tensor, ranges: Tensor, scores: Scores) -> Tensor: ...

    def cached_attention(self, q_BTHd: Tensor, k: Kept, v: Kept, ranges: Tensor, scores: Scores) -> Tensor: ...

    # -- norms and activations -----------------------------------------------------------------------------------
    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor: ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...

    def relu(self, x: Tensor) -> Tensor: ...

    def relu2(self, x: Tensor) -> Tensor: ...

    def gelu(self, x: Tensor) -> Tensor: ...

    def gelu_erf(self, x: Tensor) -> Tensor: ...

    def silu(self, x: Tensor) -> Tensor: ...

    def gated(self, activation: str, both: Tensor) -> Tensor: ...

    def dropout(self, x: Tensor, site: Site | float) -> Tensor: ...

    # -- experts -------------------------------------------------------------------------------------------------
    def router(self, logits_BTE: Tensor, correction_E: Tensor | None, rule: RoutingRule) -> Routing: ...

    def dispatch(self, x_BTD: Tensor, routing: Routing) -> Tensor: ...

    def grouped_linears(self, x: Tensor, routing: Routing, layers: Sequence[Linear]) -> Tensor: ...

    def combine(self, x: Tensor, routing: Routing) -> Tensor: ...

    # -- loss ----------------------------------------------------------------------------------------------------
    def softcap(self, x: Tensor, softcap: float) -> Tensor: ...

    def linear_cross_entropy(
        self,
        hidden_ND: Tensor,
        layer: Linear,
        targets_N: Tensor,
        label_smoothing: float = 0.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
    ) -> Tensor: ...

    def add_loss(self, name: str, value: Tensor) -> None:
        """Adds a value () to the loss of training, weighted as it counts; its part says the name in `adds_losses`."""

    def add_metric(self, name: str, value: Tensor) -> None:
        """Tells a value () of training, of several layers the largest; its part says the name in `adds_metrics`."""

    # -- updates -------------------------------------------------------------------------------------------------
    def square_sum(self, x: Tensor) -> Tensor: ...

    def update(self, asked: Update) -> None: ...

    def average(self, average: Tensor, w: Tensor, share: Tensor) -> None: ...


Activation = Callable[["Tensor"], "Tensor"]
"""An operation on each number by itself, such as `ops.relu`."""
Layer = Callable[["Operations", "WeightView", "Tensor"], "Tensor"]
"""What norms and feed-forward layers build: f(ops, w, x_BTD) -> x_BTD."""
