"""What is really read: a row of each source with the tokens that count in the loss, and the tokenizer at work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from llmspec.parts.objectives.base import MASKED, TAGS
from llmspec.parts.tokenizers import Codec

if TYPE_CHECKING:
    from llmspec.data.inputs import BatchInputs
    from llmspec.data.prepare import PreparedData
    from llmspec.data.stream import PhaseStream

SHOWN = 64
"""Tokens of an example, at most."""
SEARCHED = 200
"""Batches in which a row of each source is looked for."""
SENTENCE = "What is a comet? It is a small body of ice, which warms and begins to release gases."
STANDS_FOR = "→"
"""Between what is read at a place and the token that is to be predicted there."""
MERGES = 24
"""First merges that are shown."""


@dataclass(frozen=True)
class Example:
    """The beginning of a row that a phase reads of a source."""

    phase: str
    source: str
    pieces: tuple[tuple[str, bool], ...]
    """(text, whether its tokens count in the loss), one after another; special tokens are shown as text. Of tokens that
    were hidden, what is read and what stood there."""
    cut: bool
    """Whether the row goes on."""
    weight: float | None = None
    """How much the tokens count that do, where records have weights."""


@dataclass(frozen=True)
class Tokenization:
    """A trained tokenizer on a sentence."""

    sentence: str
    tokens: tuple[str, ...]
    characters_per_token: float
    merges: tuple[tuple[str, str], ...]
    """The first pairs that were joined, where the tokenizer learns any."""


def examples(prepared: PreparedData) -> tuple[Example, ...]:
    """A row of each source of each phase, as its first batches have it."""
    first = prepared.template.first(prepared.codec.specials)
    return tuple(
        found
        for name in prepared.phases
        for found in _of_phase(prepared.stream(name), prepared.inputs(name), prepared.codec, first)
    )


def _of_phase(stream: PhaseStream, inputs: BatchInputs, codec: Codec, first: int | None) -> list[Example]:
    found: dict[str, Example] = {}
    for step in range(min(stream.steps, SEARCHED)):
        batch = inputs.asked(stream.batch(step), step, 0)
        for row, number in enumerate(batch.source):
            source = stream.sources[int(number)]
            if source not in found and batch.labels is not None:
                found[source] = _labelled(stream, source, batch, row, codec)
            elif source not in found and stream.phase.objective.predicts == TAGS:
                found[source] = _tagged(stream, source, batch, row, codec)
            elif source not in found and stream.phase.objective.predicts == MASKED:
                found[source] = _masked(stream, source, batch, row, codec)
            elif source not in found and stream.spans is not None and batch.encoder_tokens is not None:
                found[source] = _left_out(stream, source, batch, row, codec)
            elif source not in found:
                found[source] = _example(stream, source, batch, row, codec, first)
        if len(found) == len(stream.sources):
            break
    return [found[source] for source in stream.sources if source in found]


def _example(stream: PhaseStream, source: str, batch: Any, row: int, codec: Codec, first: int | None) -> Example:
    """The row's inputs, each marked by whether it was a target that counts; of dialogues, which begin with the token
    `first`, the first one."""
    filled = int(batch.filled[row])
    ids = [int(batch.tokens[row, 0]), *map(int, batch.targets[row, :filled])]
    learned = [False, *(bool(w) for w in batch.weights[row, :filled])]
    most = min(len(ids), SHOWN)
    if stream.speaks(source):  # the second dialogue's first input is the end token, which is never a target
        begins = (i for i in range(1, filled) if batch.tokens[row, i] == first)
        most = min(most, next(begins, filled) + 1)
    marked = zip(ids[:most], learned[:most], strict=True)
    pieces = tuple(
        (codec.decode([i for i, _ in group], specials=True), taught)
        for taught, group in groupby(marked, key=lambda pair: pair[1])
    )
    counted = batch.weights[row, : most - 1]
    weight = float(counted.max(initial=0)) if stream.weighs(source) else None
    return Example(stream.name, source, pieces, most < len(ids), weight or None)


def _masked(stream: PhaseStream, source: str, batch: Any, row: int, codec: Codec) -> Example:
    """The row's inputs; of each token that is to be predicted, what is read in its place and what stood there."""
    filled = int(batch.filled[row])
    pieces = list[tuple[str, bool]]()
    for place in range(min(filled, SHOWN)):
        read, hidden = spelled(codec, int(batch.tokens[row, place])), bool(batch.weights[row, place])
        if hidden:
            stood = spelled(codec, int(batch.targets[row, place])).strip() or " "
            pieces.append((f"{read.strip() or ' '}{STANDS_FOR}{stood}", True))
        elif pieces and not pieces[-1][1]:
            pieces[-1] = (pieces[-1][0] + read, False)
        else:
            pieces.append((read, False))
    return Example(stream.name, source, tuple(pieces), min(filled, SHOWN) < filled)


def _left_out(stream: PhaseStream, source: str, batch: Any, row: int, codec: Codec) -> Example:
    """What an encoder reads of a text, and behind it the spans that its decoder is to say."""
    read = batch.encoder_tokens[row, : int(batch.encoder_filled[row])].tolist()
    said = batch.targets[row, : int(batch.filled[row])].tolist()
    shown = codec.decode(read[:SHOWN], specials=True), codec.decode(said[:SHOWN], specials=True)
    cut = max(len(read), len(said)) > SHOWN
    return Example(stream.name, source, ((f"{shown[0]} {STANDS_FOR} ", False), (shown[1], True)), cut)


def _labelled(stream: PhaseStream, source: str, batch: Any, row: int, codec: Codec) -> Example:
    """The row's documents, each with what is asked of it behind it."""
    pieces, filled = list[tuple[str, bool]](), int(batch.filled[row])
    numbers, shown = batch.documents[row, :filled], min(filled, SHOWN)
    for number in range(int(numbers[:shown].max(initial=-1)) + 1):
        ids = batch.tokens[row, :filled][numbers == number].tolist()
        pieces.append((codec.decode(ids, specials=True), False))
        assert stream.asking is not None
        pieces.append((f" {STANDS_FOR} {stream.asking.named(batch.labels.targets[row, number])}  ", True))
    return Example(stream.name, source, tuple(pieces), shown < filled)


def _tagged(stream: PhaseStream, source: str, batch: Any, row: int, codec: Codec) -> Example:
    """The row's tokens, with the tag of a word behind its first one."""
    filled, asking = int(batch.filled[row]), stream.asking
    assert asking is not None
    pieces, plain = list[tuple[str, bool]](), list[int]()
    for place in range(min(filled, SHOWN)):
        plain.append(int(batch.tokens[row, place]))
        if batch.weights[row, place]:
            pieces.append((codec.decode(plain, specials=True), False))
            pieces.append((f"{STANDS_FOR}{asking.named(batch.targets[row, place])}", True))
            plain = []
    if plain:
        pieces.append((codec.decode(plain, specials=True), False))
    return Example(stream.name, source, tuple(pieces), min(filled, SHOWN) < filled)


def spelled(codec: Codec, token: int) -> str:
    """A token as it stands in a text; special ones by their names."""
    named = next((spelling for spelling, i in codec.specials.items() if i == token), None)
    return codec.token_bytes(token).decode(errors="replace") if named is None else named


def tokenization(codec: Codec) -> Tokenization:
    """The tokenizer on a sentence, and what it learned to join first."""
    (ids,) = codec.encode([SENTENCE])
    return Tokenization(
        SENTENCE, tuple(codec.decode([i], specials=True) for i in ids), len(SENTENCE) / max(1, len(ids)), _merges(codec)
    )


def _merges(codec: Codec) -> tuple[tuple[str, str], ...]:
    """Of tokenizers whose file lists merges, the first ones as text."""
    model = json.loads(codec.to_json()).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("merges"), list):
        return ()
    pairs = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"][:MERGES]]
    ids = model["vocab"]
    return tuple((codec.decode([ids[a]]), codec.decode([ids[b]])) for a, b in pairs)
