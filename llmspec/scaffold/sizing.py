"""Which vocabulary, context, shape and budget fit somebody's text and this machine."""

from __future__ import annotations

from typing import NamedTuple

from llmspec.core.problems import DataError, LlmspecError
from llmspec.parts.base import Frozen
from llmspec.parts.tokenizers.bpe import BPE
from llmspec.scaffold.contents import Contents

VOCABULARIES = (512, 1024, 2048, 4096, 8192)
BYTES = 256
"""Where there is too little text to learn a vocabulary from, its bytes are the tokens."""
PER_ENTRY = 1_500
"""Characters of text for each entry of a vocabulary: rarer entries would be met too seldom to be learned."""
EPOCHS = 4.0
"""Readings of a text that are worth nearly as much as new text (Muennighoff et al. 2023, section 5)."""
PER_PARAMETER = 2.0
"""Tokens that a run should read for each parameter: far below the 20 that are best for compute, as a small model that
reads much is quicker to try."""
SPARE = 0.75
"""Part of a source's tokens that an epoch surely reads: validation takes some, and estimates err."""
FEWEST = 128
"""Tokens below which nothing is trained."""
LEAST_STEPS = 20
CHAT_SHARE = 0.3
"""Part of the time that dialogues get where both are trained."""


class Shape(NamedTuple):
    """Sizes of a network."""

    d_model: int
    layers: int
    heads: int
    kv_heads: int
    d_ff: int


SHAPES = (
    Shape(128, 3, 4, 2, 352),
    Shape(192, 4, 6, 2, 512),
    Shape(256, 6, 8, 2, 704),
    Shape(384, 8, 6, 2, 1024),
    Shape(512, 12, 8, 2, 1408),
)
"""From 0.5 to 35 million parameters beside the vocabulary; the widths suit the processors' vectors."""


class SpecSizes(Frozen):
    """What goes into the spec. Lengths in tokens."""

    vocab: int
    """BYTES: no vocabulary is learned."""
    context: int
    batch: int
    text_tokens: int
    """Of the plain text, estimated; 0 without."""
    chat_tokens: int
    """Of the dialogues, estimated; 0 without."""

    @property
    def tokenizer(self) -> str:
        return "byte" if self.vocab == BYTES else "bpe"


def sizes(text: Contents | None, chat: Contents | None) -> SpecSizes:
    """Vocabulary, context and batch for what was found; the vocabulary is tried on a sample.

    Raises LlmspecError where there is too little text.
    """
    given = [found for found in (text, chat) if found is not None]
    characters = sum(found.characters for found in given)
    sample = [piece for found in given for piece in found.sample]
    vocab, tokens = vocabulary(sample, characters)
    each = tokens / max(1, sum(map(len, sample)))
    least = min(found.characters for found in given) * each
    if least < FEWEST:
        raise LlmspecError(
            f"there are about {least:.0f} tokens to train on",
            f"give it more text: {FEWEST} tokens are the fewest that fill some blocks",
        )
    # A block has to be filled several times over, by what validation leaves.
    room = 1 << int(least / 8).bit_length() - 1
    if chat is not None:
        context = clipped(chat.long * each * 1.25 + 20, 64, 512)
    else:
        assert text is not None
        context = clipped(text.middle * each * 1.5 if text.documents > 100 else 1e9, 64, 256)
    context = min(context, room)
    return SpecSizes(
        vocab=vocab,
        context=context,
        batch=max(4, 2048 // context),
        text_tokens=round(text.characters * each) if text else 0,
        chat_tokens=round(chat.characters * each) if chat else 0,
    )


def vocabulary(sample: list[str], characters: int) -> tuple[int, int]:
    """The largest vocabulary that so much text deserves and yields, and the tokens of the sample in it."""
    sound = [piece.encode("utf-8", "ignore").decode() for piece in sample]  # lone surrogates are no characters
    for vocab in reversed(VOCABULARIES):
        if vocab * PER_ENTRY <= characters:
            try:
                codec = BPE(vocab=vocab).train(sound)
            except DataError:  # too much of it is the same for so many entries
                continue
            return vocab, sum(map(len, codec.encode(sound)))
    return BYTES, sum(len(piece.encode()) for piece in sound)


def clipped(number: float, least: int, most: int) -> int:
    """The next power of two, between two of them."""
    found = least
    while found < number and found < most:
        found *= 2
    return found


class TrainingLength(NamedTuple):
    """How long a phase trains."""

    tokens: int
    epochs: float
    """Readings of its source."""

    def budget(self, source: str) -> str:
        """As it is written in a spec: `4.9M tokens`, or `4 epochs of text` where that is what limits it, since the
        tokens of a text are only estimated here."""
        return f"{EPOCHS:g} epochs of {source}" if self.epochs == EPOCHS else rounded(self.tokens)


def budgets(found: SpecSizes, tokens_per_second: float, seconds: float) -> tuple[TrainingLength, TrainingLength | None]:
    """Pretraining and SFT: what fits into the time, at most as often as the text is worth, but some steps at least."""
    whole, least = tokens_per_second * seconds, LEAST_STEPS * found.batch * found.context

    def length(most: float, tokens: int) -> TrainingLength:
        epoch = tokens * SPARE
        if least <= epoch * EPOCHS <= most:
            return TrainingLength(round(epoch * EPOCHS), EPOCHS)
        taken = max(min(most, epoch * EPOCHS), least)
        return TrainingLength(round(taken), taken / epoch)

    if not found.chat_tokens:
        return length(whole, found.text_tokens), None
    return (
        length(whole * (1 - CHAT_SHARE), found.text_tokens or found.chat_tokens),
        length(whole * CHAT_SHARE, found.chat_tokens),
    )


def rounded(tokens: int) -> str:
    """As a budget is written: `4.9M tokens`."""
    from llmspec.core.units import short

    digits = 10 ** max(0, len(str(tokens)) - 2)
    return f"{short(float(max(1, tokens // digits) * digits))} tokens"
