"""Several feed-forward layers of which each token takes a few (Shazeer et al. 2017, arXiv:1701.06538).

Shape letters: B batch, T tokens, N = B · T, E experts, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmspec.core.problems import Problem
from llmspec.core.table import choice
from llmspec.parts.base import Dims, ElementwiseOps, TensorSpec
from llmspec.parts.mlps import MLP, TABLE, FeedForward
from llmspec.parts.mlps.swiglu import SwiGLU
from llmspec.parts.ops import RoutingRule

if TYPE_CHECKING:
    from llmspec.parts.ops import Layer, Linear, Operations, Routing, Tensor, WeightView

ROUTER = ElementwiseOps(14, 16)
"""Operations for each score: softmax or sigmoid, and the losses' means."""
CHOICE = ElementwiseOps(7, 0)
"""Operations for each score and each expert that a token takes: the search of the highest."""
MOVED = ElementwiseOps(2, 3)
"""Operations for each number that goes to an expert or comes from it."""


class Experts(Mapping[str, "type[FeedForward]"]):
    """The kinds of TABLE, as it is when it is read, that may be an expert."""

    def __getitem__(self, kind: str) -> type[FeedForward]:
        if TABLE[kind].routes:
            raise KeyError(kind)
        return TABLE[kind]

    def __iter__(self) -> Iterator[str]:
        return (kind for kind, part in TABLE.items() if not part.routes)

    def __len__(self) -> int:
        return sum(1 for _ in self)


EXPERTS = Experts()


class MixtureOfExperts(FeedForward):
    """A router sends each token to `top_k` of several equal layers and weighs what they give (Jiang et al. 2024).

    An expert takes all tokens that chose it, however many: none is dropped. A load-balancing loss spreads them (Fedus
    et al. 2022, equations 4 to 6): experts · Σ over experts of the share of tokens that took it times its mean score,
    of each layer, times `balance`, where a token's `top_k` choices count one each and padding does not count.
    """

    kind: Literal["mixture_of_experts"] = "mixture_of_experts"
    revision: ClassVar[int] = 2
    formula: ClassVar[str] = (
        "Σ over the k experts with the highest scores(router(x)) of scale · score · expert(x)  [+ shared(x)]"
    )
    routes: ClassVar[bool] = True
    adds_losses: ClassVar[tuple[str, ...]] = ("balance",)
    in_training: ClassVar[tuple[str, ...]] = ("balance",)
    adds_metrics: ClassVar[tuple[str, ...]] = ("max_expert_load", "idle_experts")
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        "scale": ("the experts would add nothing", "what the experts give would be infinite"),
        "balance": ("nothing would spread the tokens over the experts", "the loss would be infinite"),
    }
    experts: int = Field(8, gt=1, le=1 << 16)
    """How many there are."""
    top_k: int = Field(2, gt=0, le=1 << 10)
    """How many of them each token takes."""
    expert: Annotated[MLP, choice(EXPERTS, "swiglu")] = Field(default_factory=SwiGLU)
    """One of the equal layers: any plain or gated feed-forward layer."""
    router: Literal["softmax", "sigmoid"] = "softmax"
    """What makes scores of the router's logits: softmax over the experts (Mixtral, Qwen), or a sigmoid of each
    (DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2)."""
    router_bias: bool = False
    """Whether a correction for each expert is added to the scores, for the choice alone. It is never trained: it starts
    as 0, or as what an imported model has."""
    normalise: bool = True
    """Whether the scores of the experts that a token takes are divided by their sum."""
    scale: float = Field(1.0, gt=0)
    """Factor on what the experts give, after that."""
    shared: Annotated[MLP, choice(EXPERTS, "swiglu")] | None = None
    """A layer that every token takes beside its experts (Dai et al. 2024, arXiv:2401.06066); none if omitted."""
    shared_gate: bool = False
    """Whether a sigmoid gate weighs what the shared layer gives, as in Qwen 2."""
    balance: float = Field(0.01, ge=0)
    """Weight of the load-balancing loss."""

    def check(self, dims: Dims) -> Iterable[Problem]:
        if self.top_k > self.experts:
            yield Problem(
                f"a token cannot take {self.top_k} of {self.experts} experts",
                ("top_k",),
                f"top_k: {self.experts} at most",
                "the router would find no more",
            )
        if self.shared_gate and self.shared is None:
            yield Problem(
                "there is no shared layer whose output a gate could weigh",
                ("shared_gate",),
                "`shared: {kind: swiglu, d_ff: …}`, or leave `shared_gate` out",
                "it would change nothing",
            )
        for key, part in self.inner().items():
            yield from (p.at(key) for p in part.check(dims))

    def inner(self) -> dict[str, MLP]:
        """The layers inside, by key."""
        return {"expert": self.expert, **({"shared": self.shared} if self.shared is not None else {})}

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        found = [TensorSpec("router.weight", (self.experts, dims.d_model), "matrix")]
        if self.router_bias:
            found.append(TensorSpec("router.correction", (self.experts,), "buffer"))
        for t in self.expert.tensors(dims):
            found.append(t._replace(name=f"experts.{t.name}", shape=(self.experts, *t.shape)))
        if self.shared is not None:
            found += [t._replace(name=f"shared.{t.name}") for t in self.shared.tensors(dims)]
            if self.shared_gate:
                found.append(TensorSpec("shared_gate.weight", (1, dims.d_model), "matrix"))
        return tuple(found)

    def taken(self, name: str) -> float:
        """The share of a tensor that one token uses."""
        return self.top_k / self.experts if name.startswith("experts.") else 1.0

    def active(self, dims: Dims) -> int:
        return round(sum(math.prod(t.shape) * self.taken(t.name) for t in self.tensors(dims)))

    def product(self, matrix: TensorSpec, dims: Dims) -> float:
        return super().product(matrix, dims) * self.taken(matrix.name)

    def elementwise(self, dims: Dims) -> ElementwiseOps:
        """The experts' own, the router's, what moves rows to experts and back, and the products of rows that plain
        operations fill blocks up with (llmspec/backends/plain/experts.py)."""
        stacked = [t for t in self.tensors(dims) if t.role == "matrix" and t.name.startswith("experts.")]
        products = sum(self.product(t, dims) for t in stacked)
        filled = ElementwiseOps(1, 2).times(products * (self.experts - 1) / self.experts)
        shared = ElementwiseOps()
        if self.shared is not None:
            gate = ElementwiseOps(1, 2).times(dims.d_model * self.shared_gate)
            shared = self.shared.elementwise(dims).plus(gate, ElementwiseOps(1, 0).times(dims.d_model))
        return (
            self.expert.elementwise(dims)
            .times(self.top_k)
            .plus(
                shared,
                filled,
                ROUTER.times(self.experts),
                CHOICE.times(self.experts * self.top_k),
                MOVED.times(2 * dims.d_model * self.top_k),
            )
        )

    def saved_for_backward(self, dims: Dims) -> float:
        """What the experts of a token keep, their rows of the input and of the output, and the scores."""
        shared = self.shared.saved_for_backward(dims) + dims.d_model if self.shared is not None else 0.0
        own = self.top_k * (self.expert.saved_for_backward(dims) + 2 * dims.d_model)
        return own + shared + self.experts + 4 * self.top_k

    def dropped(self, dims: Dims) -> float:
        """The hidden layers of the experts that a token takes, and of the shared one."""
        return sum(self.taken(name) * part.dropped(dims) for name, part in self.inner().items())

    def build(self, dims: Dims) -> Layer:
        expert, shared = self.expert.build(dims), self.shared.build(dims) if self.shared is not None else None

        rule = RoutingRule(self.top_k, self.router == "sigmoid", self.normalise, self.scale)

        def forward(ops: Operations, w: WeightView, x_BTD: Tensor) -> Tensor:
            routing = ops.router(
                ops.linear(x_BTD, w.linear("router")),
                w["router.correction"] if self.router_bias else None,
                rule,
            )
            self.tell(ops, routing)
            rows = expert(GroupedOperations(ops, routing), w.under("experts"), ops.dispatch(x_BTD, routing))
            y_BTD = ops.combine(rows, routing).reshape(x_BTD.shape)
            if shared is None:
                return y_BTD
            other = shared(ops, w.under("shared"), x_BTD)
            if self.shared_gate:
                other = other * ops.linear(x_BTD, w.linear("shared_gate")).sigmoid()
            return y_BTD + other

        return forward

    def tell(self, ops: Operations, routing: Routing) -> None:
        """Adds the load-balancing loss of a layer, and counts how evenly its tokens are spread."""
        scores_NE, tokens_E = routing.scores, routing.tokens.cast(routing.scores.dtype)
        if self.router == "sigmoid":  # DeepSeek-AI 2024, equation 19
            scores_NE = scores_NE / scores_NE.sum(-1, keepdim=True)
        if ops.counted is None:
            share_E, mean_E = tokens_E.detach() / int(scores_NE.shape[0]), scores_NE.mean(0)
        else:
            counted_N1 = ops.counted.reshape(-1, 1).cast(scores_NE.dtype)
            count = counted_N1.sum().maximum(1)
            share_E, mean_E = tokens_E.detach() / count, (scores_NE * counted_N1).sum(0) / count
        ops.add_loss("balance", self.balance * self.experts * (share_E * mean_E).sum())
        ops.add_metric("max_expert_load", share_E.max() * (self.experts / self.top_k))
        ops.add_metric("idle_experts", (tokens_E == 0).cast(tokens_E.dtype).sum())


class GroupedOperations:
    """The operations of a device, where a row's products are with the weights of its own expert."""

    def __init__(self, ops: Operations, routing: Routing) -> None:
        self._ops, self._routing = ops, routing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def linear(self, x: Tensor, layer: Linear) -> Tensor:
        return self.linears(x, [layer])

    def linears(self, x: Tensor, layers: Sequence[Linear]) -> Tensor:
        return self._ops.grouped_linears(x, self._routing, layers)
