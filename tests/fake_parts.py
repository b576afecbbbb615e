"""One part of every kind, as somebody outside the package would add them: a class, and a line in a table.

`register` is called before llmspec.spec is imported, where the keys of all filters become those of `decoding:`; every
other table may get an entry at any time. Nothing here is useful.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llmspec.parts import (
    adapters,
    attentions,
    embeddings,
    filters,
    heads,
    inits,
    masks,
    mlps,
    norms,
    objectives,
    optimizers,
    phases,
    positions,
    rewards,
    rope_scalings,
    schedules,
    sources,
    templates,
    tokenizers,
)
from llmspec.parts.adapters.base import Adapter, AdapterTensor
from llmspec.parts.attentions.base import Attention
from llmspec.parts.base import Dims, ElementwiseOps, Init, InputSpec, Role, TensorSpec
from llmspec.parts.embeddings.base import Embedding, EmbeddingFunctions
from llmspec.parts.filters.base import Context, Filter
from llmspec.parts.heads.base import Head, HeadFunctions
from llmspec.parts.inits.base import Initializer
from llmspec.parts.masks.base import Mask
from llmspec.parts.mlps.base import MLP
from llmspec.parts.norms.base import Norm
from llmspec.parts.objectives.base import Loss, Objective, Outputs
from llmspec.parts.ops import Adapted, Layer, Linear, Operations, WeightView
from llmspec.parts.optimizers.base import Learned, Optimizer
from llmspec.parts.phases.base import Phase
from llmspec.parts.positions.base import Hooks, Position
from llmspec.parts.rewards.base import Answered, Reward
from llmspec.parts.rope_scalings.base import RopeScaling, plain_frequencies
from llmspec.parts.schedules.base import Schedule
from llmspec.parts.sources.base import Document, Fetcher, Source
from llmspec.parts.templates.base import Segment, Turn
from llmspec.parts.templates.role_tokens import RoleTokens
from llmspec.parts.tokenizers.base import Codec, SpelledTokenizer
from llmspec.parts.tokenizers.byte import ByteCodec

if TYPE_CHECKING:
    from llmspec.parts.ops import Tensor


class Parity(Position):
    """A trained vector on every second token (Nobody 2026)."""

    kind: Literal["parity"] = "parity"
    embeds: ClassVar[bool] = True
    formula: ClassVar[str] = "x + table[p mod 2]"

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (2, dims.d_model), "embedding"),)

    def build(self, dims: Dims) -> Hooks:
        return Hooks(embed=lambda ops, w, x_BTD, p_BT: x_BTD + ops.embedding(w["weight"], p_BT % 2))


class Halting(RopeScaling):
    """Every second pair does not turn."""

    kind: Literal["halting"] = "halting"

    def frequencies(self, theta: float, width: int, length: int) -> Any:
        own = plain_frequencies(theta, width) / self.factor
        own[1::2] = 0.0
        return own


class Loud(Embedding):
    """A trained vector for each token, times `factor`."""

    kind: Literal["loud"] = "loud"
    factor: float = Field(2.0, gt=0)
    """What vectors are multiplied with."""

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (dims.vocab, dims.d_model), "embedding"),)

    def build(self, dims: Dims) -> EmbeddingFunctions:
        return EmbeddingFunctions(lambda ops, w, inputs: ops.embedding(w["weight"], inputs["tokens"]) * self.factor)


class Far(Mask):
    """Each token sees the `window` tokens up to its own."""

    kind: Literal["far"] = "far"
    causal: ClassVar[bool] = True
    window: int | None = Field(3, gt=0)
    """How many."""

    def allows(self, query: Any, key: Any, key_in_prefix: Any = False) -> Any:
        return (key <= query) & self.reaches_back(query, key)

    def ends(self, place: Any, end: Any, prefix_end: Any) -> Any:
        return place + 1


class Biased(Head):
    """Logits of its own matrix, which starts anew."""

    kind: Literal["biased"] = "biased"
    generates: ClassVar[bool] = True

    def outputs(self, dims: Dims) -> int:
        return dims.vocab

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("matrix", (dims.vocab, dims.d_model), "head"),)

    def build(self, dims: Dims) -> HeadFunctions:
        return HeadFunctions(lambda ops, w, x_BTD, filled_BT: x_BTD, lambda w, embedding: Linear(w["matrix"]))


class Quiet(Attention):
    """Attention whose output is multiplied by `loudness`."""

    kind: Literal["quiet"] = "quiet"
    loudness: float = Field(0.5, gt=0)
    """Factor on what the heads say."""

    def key_value_heads(self) -> int:
        return self.heads or 1

    def build(self, dims: Dims, hooks: Hooks = Hooks()) -> Any:  # noqa: B008
        attend = super().build(dims, hooks)
        return lambda *given: attend(*given) * self.loudness


class Square(MLP):
    """down(up(x)²)."""

    kind: Literal["square"] = "square"
    operation: ClassVar[str] = "square"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(1, 2)

    def build(self, dims: Dims) -> Layer:
        def forward(ops: Operations, w: WeightView, x_BTD: Tensor) -> Tensor:
            hidden = ops.linear(x_BTD, w.linear("up_proj"))
            return ops.linear(hidden * hidden, w.linear("down_proj"))

        return forward


class MaxNorm(Norm):
    """x / (max|x| + eps) · weight."""

    kind: Literal["max"] = "max"
    per_number: ClassVar[ElementwiseOps] = ElementwiseOps(3, 5)

    def tensors(self, dims: Dims) -> tuple[TensorSpec, ...]:
        return (TensorSpec("weight", (dims.d_model,), "norm"),)

    def build(self, dims: Dims) -> Layer:
        def forward(ops: Operations, w: WeightView, x_BTD: Tensor) -> Tensor:
            return x_BTD / (x_BTD.abs().max(-1, keepdim=True) + self.eps) * w["weight"]

        return forward


class Tiny(Initializer):
    """Everything starts near 0."""

    kind: Literal["tiny"] = "tiny"

    def spread(self, tensor: TensorSpec) -> float:
        return 0.01


class Backwards(SpelledTokenizer):
    """Bytes whose ids count from the other end."""

    kind: Literal["backwards"] = "backwards"
    learns: ClassVar[bool] = False

    def size(self) -> int:
        return len(self.specials()) + 256

    def train(self, texts: Iterable[str], tell: Callable[[str], None] = lambda what: None) -> Codec:
        return BackwardsCodec(self.specials())

    def load(self, text: str) -> Codec:
        return BackwardsCodec(json.loads(text)["specials"])


class BackwardsCodec(ByteCodec):
    """id = number of specials + 255 - byte."""

    def encode_flat(self, texts: Sequence[str]) -> Any:
        ids, lengths = super().encode_flat(texts)
        return 2 * self._first + 255 - ids, lengths

    def token_bytes(self, token: int, begins: bool = False) -> bytes:
        return super().token_bytes(2 * self._first + 255 - token) if token >= self._first else b""

    def to_json(self) -> str:
        return json.dumps({"kind": "backwards", "specials": self._spellings})


class Counting(Source):
    """Counts up, a document a number."""

    kind: Literal["counting"] = "counting"
    until: int = Field(gt=0)
    """The last number."""

    def documents(self, fetch: Fetcher) -> Iterator[Document]:
        for n in range(self.until):
            yield Document("numbers", f"{n} and {n + 1} and {n + 2}, said number {n}.", item=str(n))

    def fingerprint(self, fetch: Fetcher) -> Any:
        return self.until


class Doubled(Objective):
    """Twice the cross entropy of the next token."""

    kind: Literal["doubled"] = "doubled"
    needs: ClassVar[tuple[str, ...]] = ("causal",)
    unit: ClassVar[str] = "half nats"
    counted: ClassVar[tuple[str, ...]] = ("heard",)

    def inputs(self, batch: int, context: int) -> dict[str, InputSpec]:
        shape = (batch, context)
        return {"targets": InputSpec(shape, "int32", ids=True), "loss_weights": InputSpec(shape, "float32")}

    def arrays(self, batch: Any, draw: Any, specials: Any) -> dict[str, Any]:
        return {"targets": batch.targets, "loss_weights": batch.weights}

    def build(self, dims: Dims) -> Loss:
        def loss(ops: Operations, outputs: Outputs, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            assert outputs.layer is not None
            hidden_ND, targets_N = outputs.features.reshape(-1, dims.d_model), inputs["targets"].reshape(-1)
            losses_N = 2 * ops.linear_cross_entropy(hidden_ND, outputs.layer, targets_N)
            weights_N = inputs["loss_weights"].reshape(-1)
            return {"loss": (losses_N * weights_N).sum(), "heard": weights_N.sum()}

        return loss


class Sign(Optimizer):
    """w ← w − lr·sign(g), with the last gradient kept."""

    kind: Literal["sign"] = "sign"

    def state(self, role: Role, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"last": shape}

    def elementwise(self, role: Role) -> float:
        return 3.0

    def update(self, ops: Operations, of: Learned) -> None:
        g = of.g * of.scale
        ops.assign(of.w, of.w - of.scalars[0] * (g + of.state["last"]).sign())
        ops.assign(of.state["last"], g)


class Stairs(Schedule):
    """The peak rate for the first half, a tenth of it for the second."""

    kind: Literal["stairs"] = "stairs"

    def after(self, progress: float) -> float:
        return 1.0 if progress < 0.5 else 0.1


class Vowels(Reward):  # the share of vowels
    kind: Literal["vowels"] = "vowels"

    def score(self, answer: Answered) -> float:
        return sum(letter in "aeiou" for letter in answer.text) / max(1, len(answer.text))


class Printable(Filter):
    """Cuts tokens whose id is below `lowest_id`."""

    kind: ClassVar[str] = "printable"
    truncates: ClassVar[bool] = True
    lowest_id: int = Field(0, ge=0)
    """The smallest id that may be drawn; 0 cuts nothing."""

    def active(self) -> bool:
        return self.lowest_id > 0

    def apply(self, logits: Any, context: Context) -> Any:
        kept = logits.copy()
        kept[: self.lowest_id] = -float("inf")
        return kept


class Shouted(RoleTokens):
    """Dialogues in capitals."""

    kind: Literal["shouted"] = "shouted"  # type: ignore[assignment]

    def render(self, specials: Any, turns: Iterable[Turn]) -> Iterator[Segment]:
        for segment in super().render(specials, turns):
            yield segment._replace(content=segment.content.upper()) if type(segment.content) is str else segment


class Practice(Phase):
    """Next-token prediction that counts its steps."""

    kind: Literal["practice"] = "practice"


class Offset(Adapter):
    """Adds a trained vector to what a layer gives."""

    kind: Literal["offset"] = "offset"

    def tensors(self, outputs: int, inputs: int, residual: bool) -> tuple[AdapterTensor, ...]:
        return (AdapterTensor(TensorSpec("offset", (outputs,), "bias", residual), Init(distribution="zeros")),)

    def build(self, w: WeightView) -> Adapted:
        offset = w["offset"]
        return lambda ops, x, layer, y: y + offset


ENTRIES: tuple[tuple[Any, Any], ...] = (
    (positions, Parity),
    (rope_scalings, Halting),
    (embeddings, Loud),
    (masks, Far),
    (heads, Biased),
    (attentions, Quiet),
    (mlps, Square),
    (norms, MaxNorm),
    (inits, Tiny),
    (tokenizers, Backwards),
    (sources, Counting),
    (objectives, Doubled),
    (optimizers, Sign),
    (schedules, Stairs),
    (templates, Shouted),
    (phases, Practice),
    (adapters, Offset),
    (rewards, Vowels),
    (filters, Printable),
)
"""The package of each kind, and the part that is added to its table."""


def register() -> None:
    """A line a part."""
    for package, part in ENTRIES:
        field = part.model_fields.get("kind")
        package.TABLE[field.default if field else part.kind] = part


def register_task() -> None:
    """How the phase of Practice is trained: as pretraining is, with state of its own."""
    from llmspec.training.tasks import TASKS
    from llmspec.training.tasks.supervised import Supervised

    class Practising(Supervised):
        """Keeps how many steps it took, which a resumed run has to know."""

        practised = 0

        def step_taken(self, step: int, taken: Any) -> int:
            self.practised += 1
            return super().step_taken(step, taken)

        def state(self, step: int) -> dict[str, Any]:
            return {**super().state(step), "practised": self.practised}

        def restore(self, state: Any, tensors: Any, step: int) -> None:
            super().restore(state, tensors, step)
            self.practised = state["practised"]

    TASKS["practice"] = Practising
