"""What a spec's `encoder:` means: the model that its stack of blocks would be by itself, and what cannot be meant."""

from __future__ import annotations

from collections.abc import Iterator

from llmspec.core.problems import Problem
from llmspec.parts import masks
from llmspec.parts.attentions import Attention
from llmspec.parts.base import Default
from llmspec.parts.masks import Mask
from llmspec.spec.schema import EncoderSpec, ModelSpec

OWN = ("attention", "mlp", "position", "norm", "residual")
"""Keys that are the model's where the encoder leaves them out."""


def encoder_model(model: ModelSpec, encoder: EncoderSpec) -> ModelSpec:
    """A model whose only stack is the encoder."""
    own = {key: getattr(encoder, key) for key in OWN if getattr(encoder, key) is not None}
    return model.model_copy(
        update={
            **own,
            "layers": encoder.layers or model.layers,
            "context": encoder.context or model.context,
            "mask": encoder.mask or masks.TABLE["bidirectional"](),
            "blocks": encoder.blocks,
            "pattern": encoder.pattern,
            "encoder": None,
            "cross_attention": None,
        }
    )


def encoder_defaults(model: ModelSpec) -> dict[str, Default]:
    """What the encoder, and how the decoder looks at it, is where the spec leaves that open."""
    assert model.encoder is not None
    found = {
        "encoder.layers": Default(model.layers, "as many as in the decoder"),
        "encoder.context": Default(model.context, "as long as the decoder's"),
    }
    left = {path: d for path, d in found.items() if getattr(model.encoder, path.partition(".")[2]) is None}
    if model.encoder.mask is None:
        left["encoder.mask"] = Default("bidirectional", "its text is there as a whole")
    if model.cross_attention is None:
        left["cross_attention"] = Default(model.attention.kind, "as the attention of the decoder")
    return left


def encoder_problems(model: ModelSpec) -> Iterator[Problem]:
    """What contradicts itself: cross-attention that has nothing to look at, and an encoder that could not read."""
    crossed: dict[tuple[str, ...], Attention | None] = {("cross_attention",): model.cross_attention}
    crossed |= {("blocks", name, "cross_attention"): block.cross_attention for name, block in model.blocks.items()}
    if model.encoder is None:
        for path, part in crossed.items():
            if part is not None:
                yield Problem(
                    "cross-attention looks at an encoder's states, and the model has no `encoder`",
                    ("model", *path),
                    "`encoder: {}` adds one like the decoder, or leave cross_attention out",
                    "there would be nothing to look at",
                )
        return
    named: dict[tuple[str, ...], Mask | None] = {("mask",): model.encoder.mask}
    for name, block in model.encoder.blocks.items():
        named["blocks", name, "mask"] = block.mask
        if block.cross_attention is not None:
            yield Problem(
                "a block of the encoder has cross-attention",
                ("model", "encoder", "blocks", name, "cross_attention"),
                "`cross_attention` at the model, for the blocks of the decoder",
                "the encoder would look at its own last states, which are not there yet",
            )
    for path, mask in named.items():
        if mask is not None and mask.has_prefix:
            yield Problem(
                f"the encoder's mask is {mask.kind}, and all that it reads is given",
                ("model", "encoder", *path),
                "mask: {kind: bidirectional}, in which every token sees all others",
                "there would be no rest after the prefix",
            )
    if any(mask.has_prefix for mask in (model.mask, *(b.mask for b in model.blocks.values() if b.mask is not None))):
        yield Problem(
            "the decoder's mask has a prefix, and its prompt goes to the encoder",
            ("model", "mask"),
            "mask: {kind: causal}",
            "there would be no prefix to see",
        )
