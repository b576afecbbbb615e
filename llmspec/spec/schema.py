"""The typed spec: what one YAML file says, section by section. Every field's docstring is its description."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from llmspec.core.table import choice
from llmspec.core.units import Bytes
from llmspec.parts import (
    adapters,
    attentions,
    embeddings,
    heads,
    inits,
    masks,
    mlps,
    norms,
    phases,
    positions,
    sources,
    templates,
    tokenizers,
)
from llmspec.parts.adapters import Adapter
from llmspec.parts.attentions import Attention
from llmspec.parts.base import Frozen
from llmspec.parts.dropout import LOST, Dropout
from llmspec.parts.embeddings import Embedding
from llmspec.parts.heads import Head
from llmspec.parts.inits import Initializer
from llmspec.parts.masks import Mask
from llmspec.parts.mlps import FeedForward
from llmspec.parts.norms import Norm
from llmspec.parts.phases import Phase
from llmspec.parts.positions import Position
from llmspec.parts.residual import Residual
from llmspec.parts.sources import Source
from llmspec.parts.sources.base import check_template
from llmspec.parts.task_templates import with_dialogues
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.tokenizers import Tokenizer
from llmspec.parts.tokenizers.special_tokens import ChatRole
from llmspec.spec.decoding import Decoding

AnyPosition = Annotated[Position, choice(positions.TABLE, "rope")]
AnyAttention = Annotated[Attention, choice(attentions.TABLE, "grouped_query")]
AnyMLP = Annotated[FeedForward, choice(mlps.TABLE, "swiglu")]
AnyNorm = Annotated[Norm, choice(norms.TABLE, "rmsnorm")]
AnyEmbedding = Annotated[Embedding, choice(embeddings.TABLE, "tokens")]
AnyMask = Annotated[Mask, choice(masks.TABLE, "causal")]
AnyAdapter = Annotated[Adapter, choice(adapters.TABLE, "lora")]
AnyHead = Annotated[Head, choice(heads.TABLE, "lm")]
AnyInitializer = Annotated[Initializer, choice(inits.TABLE, "normal")]
AnyTokenizer = Annotated[Tokenizer, choice(tokenizers.TABLE, "byte")]
AnyTemplate = Annotated[ChatTemplate, choice(templates.TABLE, "role_tokens")]
AnySource = Annotated[Source, choice(sources.TABLE)]
AnyPhase = Annotated[Phase, choice(phases.TABLE)]
Contamination = Literal["refuse", "drop", "allow"]
Precision = Literal["float32", "bfloat16", "float16"]
DecoderStart = Literal["bos", "pad"]


class BlockSpec(Frozen):
    """What a block has of its own; the rest is that of the model."""

    attention: AnyAttention | None = None
    """How its tokens look at each other."""
    mask: AnyMask | None = None
    """Which tokens they may look at."""
    cross_attention: AnyAttention | None = None
    """How they look at the encoder's states."""
    position: AnyPosition | None = None
    """How it knows where a token stands: a kind that works in each layer, not one that is added to the embedding."""
    mlp: AnyMLP | None = None
    """Its feed-forward layer."""
    norm: AnyNorm | None = None
    """Its normalisation."""
    residual: Residual | None = None
    """How its branches join the residual stream."""


class EncoderSpec(Frozen):
    """The encoder of an encoder–decoder (Vaswani et al. 2017, section 3.1): blocks that read a text of their own, whose
    last states the decoder's cross-attention looks at. It shares the token embedding; what is left out is as in the
    model."""

    layers: int | None = Field(None, gt=0, le=4096)
    """Number of blocks; as many as in the decoder if omitted."""
    context: int | None = Field(None, gt=1, le=1 << 24)
    """Longest text that it reads, in tokens; the model's context if omitted."""
    decoder_start: DecoderStart = "bos"
    """What the decoder's text begins with, by its meaning: the token before every text (bos), or that of padding (pad),
    as in T5."""
    position: AnyPosition | None = None
    """How it knows where a token stands; its trained numbers are its own."""
    attention: AnyAttention | None = None
    """How its tokens look at each other."""
    mask: AnyMask | None = None
    """Which tokens they may look at; all of them (bidirectional) if omitted."""
    mlp: AnyMLP | None = None
    """Its feed-forward layers."""
    norm: AnyNorm | None = None
    """Its normalisation, after its last block, too."""
    residual: Residual | None = None
    """How its branches join the residual stream."""
    blocks: dict[str, BlockSpec] = Field(default_factory=dict)
    """Kinds of its blocks by name, each with what it has of its own."""
    pattern: tuple[str, ...] = ()
    """Names of its `blocks`, from the first layer on, repeated as often as there are layers."""


class ModelSpec(Frozen):
    """Architecture: a transformer made of parts, of equal blocks or of several kinds in a pattern."""

    effects: ClassVar[dict[str, tuple[str, str]]] = {"dropout": LOST}
    context: int = Field(gt=0, le=1 << 24)
    """Longest sequence, in tokens."""
    d_model: int = Field(gt=0, le=1 << 20)
    """Width of the residual stream."""
    layers: int = Field(gt=0, le=4096)
    """Number of blocks."""
    vocab: int | None = Field(None, gt=0, le=1 << 24)
    """Rows of the embedding; as many as the tokenizer has ids if omitted. What is more than these is never drawn: some
    models round the number up."""
    embedding: AnyEmbedding = Field(default_factory=embeddings.TABLE.default("tokens"))
    """What the first block reads."""
    position: AnyPosition = Field(default_factory=positions.TABLE.default("rope"))
    """How the model knows where a token stands."""
    attention: AnyAttention = Field(default_factory=attentions.TABLE.default("grouped_query"))
    """How tokens look at each other."""
    mask: AnyMask = Field(default_factory=masks.TABLE.default("causal"))
    """Which tokens a token may look at."""
    encoder: EncoderSpec | None = None
    """A second stack of blocks that reads a text of its own: the prompt goes to it, and the decoder answers. None if
    omitted."""
    cross_attention: AnyAttention | None = None
    """How the decoder's tokens look at the encoder's states, in every block between attention and feed-forward layer;
    as `attention` if omitted, and only where there is an encoder."""
    mlp: AnyMLP = Field(default_factory=mlps.TABLE.default("swiglu"))
    """The feed-forward layer."""
    norm: AnyNorm = Field(default_factory=norms.TABLE.default("rmsnorm"))
    """Normalisation."""
    residual: Residual = "pre"
    """How attention and feed-forward layer join the residual stream: pre, x + f(norm(x)); post, norm(x + f(x)), as in
    Vaswani et al. 2017; sandwich, x + norm(f(norm(x))); output, x + norm(f(x)); parallel, both read the same x, each
    through its own norm, and parallel_shared through one (Chowdhery et al. 2022, section 2); pre_mlp, as pre, but
    attention reads x itself (Warner et al. 2024). All but post have one more norm before the heads."""
    blocks: dict[str, BlockSpec] = Field(default_factory=dict)
    """Kinds of blocks by name, each with what it has of its own; if omitted, all blocks are the model's."""
    pattern: tuple[str, ...] = ()
    """Names of `blocks`, from the first layer on, repeated as often as there are layers."""
    heads: dict[str, AnyHead] = Field(default_factory=lambda: {"lm": heads.TABLE["lm"]()}, min_length=1)
    """What the network ends in, by name: logits of the next token unless said otherwise."""
    init: AnyInitializer = Field(default_factory=inits.TABLE.default("normal"))
    """How weights start."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | Dropout = 0.0
    """Share of the embedding's and each branch's outputs dropped in training; or a share for each place, such as
    `{attention: 0.1, residual: 0.1}`, 0 for those that are not named (Srivastava et al. 2014)."""


class DataSpec(Frozen):
    """Where the text comes from."""

    sources: dict[str, AnySource] = Field(default_factory=dict)
    """Sources by name; mixtures refer to them."""
    contamination: Contamination = "drop"
    """What happens to training documents that some source validates with, case, spacing and punctuation aside:
    `drop` leaves them out of training, `refuse` stops the run, `allow` trains on them and says so."""


class Spec(Frozen):
    """The whole life of a language model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the model and of its run directory."""
    seed: int = Field(0, ge=0, lt=1 << 63)
    """Everything random follows from it."""
    device: str = Field("auto", pattern=r"^(auto|CPU|CUDA|METAL|NV|AMD|NULL)(:.*)?$")
    """auto, or a tinygrad device: CPU, CUDA, METAL, NV, AMD."""
    precision: Precision = "float32"
    """What a GPU rounds the operands of matrix products to; weights, optimizer state, sums, norms and losses stay
    float32."""
    beam: int = Field(0, ge=0, le=32)
    """Width of tinygrad's search for the fastest form of each GPU kernel, 0 for none: minutes in the first steps, kept
    for later runs."""
    memory_limit: Bytes | None = None
    """What one device may hold, such as `8 GiB`; if omitted, what this machine has, if it says so."""
    model: ModelSpec
    """Architecture."""
    tokenizer: AnyTokenizer = Field(default_factory=tokenizers.TABLE.default("byte"))
    """How text becomes numbers."""
    chat_template: AnyTemplate = Field(default_factory=templates.TABLE.default("role_tokens"))
    """How a dialogue becomes one sequence of tokens, in training and in prompts. It stands apart from the tokenizer,
    which is not retrained for another template."""
    templates: dict[str, dict[ChatRole, str]] = Field(default_factory=dict)
    """Tasks as dialogues, by name: role -> template of its turn. Sources name them with `template:`; summarise,
    translate, classify and continue are there unless one here has their name."""
    data: DataSpec = Field(default_factory=DataSpec)
    """Sources of text; left out together with the phases in a spec that is only checked and explained."""
    phases: dict[str, AnyPhase] = Field(default_factory=dict)
    """Training phases by name, in any order: `from:` says what follows what. A spec without any describes a model."""
    prompts: tuple[Annotated[str, Field(pattern=r"\S")], ...] = Field((), max_length=100)
    """Prompts that every phase that draws text answers at its end, all with the same seed; `llmspec explain RUN` shows
    the answers of the phases side by side. Phases of dialogues answer them as a user's turn, others continue them."""
    decoding: Decoding = Field(default_factory=Decoding)
    """How text is drawn from the model."""

    @field_validator("templates")
    @classmethod
    def _templates_read(cls, templates: dict[str, dict[ChatRole, str]]) -> dict[str, dict[ChatRole, str]]:
        for turns in templates.values():
            if not turns:
                raise ValueError("a template without turns; write `{user: ..., assistant: ...}`")
            for turn in turns.values():
                check_template(turn)
        return templates

    @model_validator(mode="after")
    def _with_dialogues(self) -> Spec:
        if any(source.template is not None for source in self.data.sources.values()):
            data = self.data.model_copy(update={"sources": with_dialogues(self.data.sources, self.templates)})
            object.__setattr__(self, "data", data)
        return self

    @cached_property
    def folder(self) -> str:
        """Where relative paths of its sources start; `load_spec` makes it the folder of the spec's file."""
        return "."

    def dump(self) -> dict[str, Any]:
        """The spec as plain data, every default written out; reading it back gives an equal spec."""
        return self.model_dump(mode="json", by_alias=True)
