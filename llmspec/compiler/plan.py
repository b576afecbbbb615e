"""The Plan: everything a run will do, as frozen data. parse(print(plan)) == plan; nothing here allocates."""

from __future__ import annotations

from math import prod
from typing import Any

from pydantic import Field

from llmspec.compiler.continued import Continued
from llmspec.compiler.memory_plan import MemoryPlan
from llmspec.compiler.plan_settings import model_settings
from llmspec.core.units import Bytes
from llmspec.parts import templates
from llmspec.parts.base import Dims, Frozen, Init, Role
from llmspec.parts.dropout import Dropout, by_site
from llmspec.parts.phases.base import POLICY
from llmspec.parts.residual import Residual
from llmspec.spec.decoding import Decoding
from llmspec.spec.schema import (
    AnyAdapter,
    AnyAttention,
    AnyEmbedding,
    AnyHead,
    AnyInitializer,
    AnyMask,
    AnyMLP,
    AnyNorm,
    AnyPhase,
    AnyPosition,
    AnySource,
    AnyTemplate,
    AnyTokenizer,
    Contamination,
    DecoderStart,
    Precision,
)


class Decision(Frozen):
    """A value chosen for a key the spec left open."""

    path: str
    value: Any
    why: str


class TensorPlan(Frozen):
    """One weight: its name in the state dict, shape (outputs, inputs), what it is and how it starts."""

    name: str
    shape: tuple[int, ...]
    role: Role
    init: Init
    dtype: str = "float32"
    trainable: bool = True
    """Whether the phase whose model this is changes it; what it does not has no gradient and no optimizer state."""

    @property
    def count(self) -> int:
        """Number of elements."""
        return prod(self.shape)


class BlockPlan(Frozen):
    """A kind of block, every setting closed. Its branches are those of llmspec/compiler/walk.py."""

    name: str
    """Its name in the spec's `blocks`; `block` where all are equal."""
    attention: AnyAttention
    mask: AnyMask
    position: AnyPosition
    position_name: str
    """Whose tensors and tables its position reads: equal positions of equal heads share them."""
    mlp: AnyMLP
    norm: AnyNorm
    residual: Residual
    cross_attention: AnyAttention | None = None
    """Looks at the encoder's states, in blocks of a decoder that has one."""


class StackPlan(Frozen):
    """Blocks one after another: equal ones are stored once."""

    name: str
    """decoder or encoder."""
    blocks: tuple[BlockPlan, ...]
    order: tuple[int, ...]
    """Of each layer, from the first on, which of `blocks` it is."""
    final_norm: AnyNorm | None
    """The norm after the last block; None where its own norm stands there."""
    context: int | None = None
    """Longest sequence that it reads, in tokens; None: the model's context."""
    position: AnyPosition | None = None
    """What is added to what it reads, or what its blocks use; None: the model's."""

    def layers_of(self, block: int) -> tuple[int, ...]:
        """The layers that are of a block."""
        return tuple(layer for layer, own in enumerate(self.order) if own == block)


class ModelPlan(Frozen):
    """The network with every dimension known: what it reads, its stacks of blocks, its heads."""

    d_model: int
    context: int
    vocab: int
    embedding: AnyEmbedding
    position: AnyPosition
    """What is added to the embedding, or what blocks use that have no position of their own."""
    norm: AnyNorm
    """What stands where a norm belongs to no block."""
    stacks: tuple[StackPlan, ...]
    heads: dict[str, AnyHead]
    init: AnyInitializer | None = None
    """What `tensors` start by; None where an older version wrote the plan."""
    dropout: float | Dropout
    """A share for each site, or the one number that says the same."""
    adapter: AnyAdapter | None = None
    """What adapts linear layers, whose own weights are those of the model that a phase started from."""
    decoder_start: DecoderStart | None = None
    """The special token that the decoder's text begins with, by its meaning; None without an encoder."""
    tensors: tuple[TensorPlan, ...]
    flops_per_token: float
    """FLOPs of one forward pass per token at full context, matrix products only, with the first head."""

    @property
    def drops(self) -> Dropout:
        """The share of each site of dropout; false where nothing is dropped."""
        return by_site(self.dropout)

    @property
    def drawn(self) -> bool:
        """Whether training draws random numbers within it: of what is dropped."""
        return bool(self.drops) or (self.adapter is not None and self.adapter.drops)

    @property
    def layers(self) -> int:
        """Number of blocks, of all stacks."""
        return sum(len(stack.order) for stack in self.stacks)

    @property
    def encoder(self) -> StackPlan | None:
        """The stack whose states the decoder's cross-attention reads; None where there is one stack alone."""
        return self.stacks[0] if len(self.stacks) > 1 else None

    @property
    def decoder(self) -> StackPlan:
        """The stack that the heads read: the only one where there is no encoder."""
        return self.stacks[-1]

    @property
    def encoder_context(self) -> int:
        """Tokens that the encoder reads at most; 0 without one."""
        return 0 if self.encoder is None else self.encoder.context or self.context

    @property
    def dims(self) -> Dims:
        """The dimensions that all blocks share."""
        return Dims(self.d_model, self.layers, self.context, self.vocab)

    @property
    def parameters(self) -> int:
        """Number of elements in all tensors."""
        return sum(t.count for t in self.tensors)

    @property
    def trained(self) -> tuple[TensorPlan, ...]:
        """The tensors that change."""
        return tuple(t for t in self.tensors if t.trainable)

    @property
    def trained_parameters(self) -> int:
        """Number of elements in tensors that change."""
        return sum(t.count for t in self.trained)

    @property
    def stored(self) -> tuple[TensorPlan, ...]:
        """The tensors that an artifact of this model holds: all, but for those of the model that is adapted."""
        if self.adapter is None:
            return self.tensors
        return tuple(t for t in self.tensors if t.trainable or self.adapter.owns(t.name))

    @property
    def generating_head(self) -> str | None:
        """The first head whose outputs are logits of the next token; None where no text can be drawn."""
        return next((name for name, head in self.heads.items() if head.generates), None)

    @property
    def generates(self) -> bool:
        """Whether text can be drawn: a head gives logits of the next token, and no token has seen its own."""
        blind = all(b.mask.causal or b.mask.has_prefix for b in self.decoder.blocks)
        return blind and self.generating_head is not None


class SourcePlan(Frozen):
    """A source with what was found in it (None before its text has been read)."""

    name: str
    source: AnySource
    documents: int | None = None
    train_tokens: int | None = None
    validation_tokens: int | None = None
    train_characters: int | None = None
    validation_characters: int | None = None
    contaminated: int | None = None
    """Training documents whose text is held out too, but for typography; `data.contamination` says what happens."""
    duplicates: int | None = None
    """Documents that repeat another one of the source, but for typography; they are kept."""
    format: str | None = None
    """Format of dialogues that was recognised in its records; empty where the spec says it, or there is none."""
    unknown: float | None = None
    """Share of the characters of its training text that the tokenizer does not know."""
    validation_unknown: float | None = None
    """The same of its validation text."""


class Cost(Frozen):
    """Operations on numbers; a multiply-add is two."""

    products: float
    """FLOPs of the matrix products: exact, and the same on every device, but that plain operations also multiply keys
    outside a window."""
    other: float
    """Everything else, as the plain backend does it; estimated."""

    @property
    def total(self) -> float:
        return self.products + self.other


class SharePlan(Frozen):
    """What a phase takes of one source. Token counts are exact once the data have been read, None before."""

    source: str
    share: float
    blocks: int | None = None
    tokens_read: int | None = None
    """Input tokens read, padding excluded."""
    tokens_supervised: int | None = None
    """Targets that count in the loss."""
    documents_dropped: int | None = None
    """Training documents that no block holds: the sum of the reasons in `dropped` but of those also in validation."""
    dropped: dict[str, int] | None = None
    """Reason -> training documents that the phase does not read; each counts under one reason."""
    validation_dropped: dict[str, int] | None = None
    """The same of the documents kept for validation."""
    documents_contaminated: int | None = None
    """Training documents whose text validation holds too."""
    tokens_repeated: int | None = None
    """Of the tokens read, those read before in this phase."""
    epochs: float | None = None


class OtherPlan(Frozen):
    """A model that stands beside the one that a phase trains, such as a teacher; nothing of it changes."""

    model: ModelPlan
    phase: str = ""
    """The phase whose artifact it is; '' for a model that was there already."""
    once: bool = False
    """Whether it is asked before the first step alone."""


class PhasePlan(Frozen):
    """A phase with its length in steps and what it reads."""

    name: str
    phase: AnyPhase
    steps: int | None
    """Optimizer steps; None while a budget in epochs waits for the data."""
    exact: bool
    """Whether `steps` was computed from the data, or only from the budget."""
    tokens: int | None
    """Tokens read, padding excluded."""
    shares: tuple[SharePlan, ...]
    model: ModelPlan
    """What this phase trains: the network with its heads, and which tensors change."""
    makes: str
    """What sort of artifact it leaves: a `policy` draws text, a `filler` fills masked places."""
    flops: float | None
    """FLOPs of training, forward, backward and update, matrix products only."""
    operations: float | None = None
    """The same with all other operations, as the plain backend does them; estimated."""
    memory: MemoryPlan | None = None
    others: dict[str, OtherPlan] = {}
    """By role: the models that stand beside it. Of those that were there already, what was opened before training."""
    continued: Continued | None = None
    """What it goes on from; null: it is trained from its beginning."""
    labels_found: bool = False
    """Whether its labels are those found in its documents, since the spec leaves them open."""
    key: str = ""
    """Hash of everything that shapes this phase's result; equal keys are never trained twice."""

    @property
    def draws(self) -> bool:
        """Whether text can be drawn from what it makes."""
        return self.makes == POLICY


KEPT = (
    "name",
    "seed",
    "device",
    "precision",
    "beam",
    "memory_limit",
    "tokenizer",
    "chat_template",
    "prompts",
    "decoding",
)
"""Keys of a spec that a Plan holds as they are, but for what the compiler closed."""


class Plan(Frozen):
    """Everything a run will do. Phases stand in the order in which they run."""

    name: str
    seed: int
    device: str
    precision: Precision = "float32"
    """What the operands of products are rounded to."""
    beam: int = 0
    """Width of the search for the fastest form of each kernel; 0: none."""
    model: ModelPlan
    tokenizer: AnyTokenizer
    chat_template: AnyTemplate = Field(default_factory=templates.TABLE.default("role_tokens"))
    sources: tuple[SourcePlan, ...]
    phases: tuple[PhasePlan, ...]
    decoding: Decoding
    decisions: tuple[Decision, ...]
    memory_limit: Bytes | None = None
    """What one device may hold, where the spec says so."""
    base: str = "."
    """Folder of the spec; relative paths of sources start here."""
    prompts: tuple[str, ...] = ()
    """What every phase that draws text answers at its end."""
    contamination: Contamination = "drop"
    """What happens to training documents that are also in validation."""

    def dump(self) -> dict[str, Any]:
        """JSON-able form, saved as plan.json."""
        return self.model_dump(mode="json", by_alias=True)

    def settings(self) -> dict[str, Any]:
        """The spec that this plan follows from, as JSON-able data: every default written out, nothing computed."""
        dumped = self.dump()
        model = model_settings(dumped["model"])
        if self.model.vocab != self.tokenizer.size():
            model["vocab"] = self.model.vocab
        sources = {s["name"]: s["source"] for s in dumped["sources"]}
        phases = {p["name"]: p["phase"] for p in dumped["phases"]}
        kept = {k: dumped[k] for k in KEPT}
        return {
            **kept,
            "model": model,
            "data": {"contamination": dumped["contamination"], "sources": sources},
            "phases": phases,
        }

    @classmethod
    def parse(cls, text: str) -> Plan:
        """The plan that plan.json holds."""
        return cls.model_validate_json(text)

    def of(self, phase: str) -> Plan:
        """The plan whose model is that of a phase, with the heads that it has; as it is where it has no such phase,
        like that of a saved model."""
        return self.model_copy(update={"model": next((p.model for p in self.phases if p.name == phase), self.model)})

    def phase(self, name: str) -> PhasePlan:
        return next(p for p in self.phases if p.name == name)


class Measured(Frozen):
    """What reading the data found: fills the Nones of a Plan. Made by llmspec/data."""

    fingerprint: str
    """Hash of the sources' contents and of the tokenizer that was trained on them."""
    sources: tuple[SourcePlan, ...]
    phases: dict[str, tuple[SharePlan, ...]]
    fingerprints: dict[str, str]
    """By phase: hash of the tokens that the phase reads, so that another phase's sources do not matter to it."""
    decisions: tuple[Decision, ...] = ()
    """How records are read where the spec does not say it."""
    labels: dict[str, tuple[str, ...]] = {}
    """By phase: the labels of its documents, where the spec does not list them."""
    spreads: dict[str, tuple[float, float]] = {}
    """By phase: mean and standard deviation of the numbers of its documents, where the spec does not say them."""
