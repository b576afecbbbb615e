"""What is checked of the data before step 0: supervised tokens, document numbers, and that no text is on both sides.

B rows, T tokens of a block. Blocks are drawn evenly over what a phase will read of each source, and read anew from
the special tokens in them, which text can never spell: not from the counts that made their weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmspec.compiler.checks import LEARNED, MARKED, NUMBERED, UNSEEN, Check
from llmspec.data.comparing import compares, reading_compared
from llmspec.data.hidden import hiding
from llmspec.data.layout import Batch, Pair
from llmspec.data.left_out import spanning
from llmspec.data.stream import PhaseStream
from llmspec.data.tokens import TokenSet
from llmspec.data.whole import reading_whole
from llmspec.parts.phases.turns import Turns
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.tokenizers import Codec

if TYPE_CHECKING:
    from llmspec.data.prepare import PreparedData

DRAWN = 32
"""Blocks of each source that are looked at in each phase."""
AT_ONCE = 1 << 20
"""Tokens of a document that are hashed in one go."""


def data_checks(prepared: PreparedData) -> tuple[Check, ...]:
    """Every check that hangs on the text of a prepared plan."""
    streams = [prepared.stream(name) for name in prepared.phases]
    drawn = [(stream, source, stream.drawn(source, DRAWN)) for stream in streams for source in stream.sources]
    packed = [one for one in drawn if not one[0].phase.objective.reads_whole]
    whole = [one for one in drawn if one[0].phase.objective.reads_whole]
    layout = [one for one in packed if not one[0].phase.objective.drawn and one[0].spans is None]
    masked = any(stream.phase.document_mask and stream.pair is None for stream, _, _ in packed)
    return (
        teaching(streams, drawn),
        *((marking(prepared.codec, prepared.template, prepared.pair_form, layout),) if layout else ()),
        *((numbering(prepared.codec, prepared.template, prepared.pair_form, packed),) if masked else ()),
        *reading_whole(prepared, [one for one in whole if not compares(one[0])]),
        *reading_compared(prepared, [one for one in whole if compares(one[0])]),
        *hiding(prepared),
        *spanning(prepared),
        unseen(prepared),
    )


Drawn = Sequence[tuple[PhaseStream, str, Batch]]
"""(stream, source, blocks of it)."""


def teaching(streams: Sequence[PhaseStream], drawn: Drawn) -> Check:
    """Every block has a supervised token: by the counts of all of them, and by looking at those that were drawn."""
    for stream, source, batch in drawn:
        empty = np.flatnonzero(batch.weights.sum(axis=1) == 0)
        if len(empty) or (stream.counts(source).blocks and not stream.counts(source).least):
            return Check(
                name=LEARNED,
                holds=False,
                path=("phases", stream.name, "mixture", source),
                evidence=f"a block of {source} in {stream.name} has no supervised token",
                hint="look at what `train_on:` names and at the dialogues of the source",
            )
    told = []
    for stream in streams:
        counts = {source: stream.counts(source) for source in stream.sources}
        blocks = sum(c.blocks for c in counts.values())
        least = f"at least {min(c.least for c in counts.values() if c.blocks):,}"
        if compares(stream):
            told.append(f"{stream.name}: {blocks:,} blocks, {least} tokens of answers in each")
            continue
        if stream.phase.objective.reads_whole:
            what = "document" if stream.phase.objective.documents else "word"
            told.append(f"{stream.name}: {blocks:,} blocks, {least} {what}{'s' * (least != 'at least 1')} in each")
            continue
        if stream.phase.objective.drawn:
            least = f"up to {stream.phase.objective.places(stream.context)}"
        told.append(f"{stream.name}: {blocks:,} blocks, {least} of {stream.context:,} positions supervised")
        told += [f"{source} gets no block, as its share is so small" for source, c in counts.items() if not c.blocks]
    return Check(name=LEARNED, holds=True, evidence="; ".join(told))


# -- what the marks say --------------------------------------------------------------------------------------------
def marking(codec: Codec, chat: ChatTemplate, form: ChatTemplate, drawn: Drawn) -> Check:
    """Exactly the turns that `train_on` names, and their ends, are supervised; of plain text, everything, and of pairs
    whose source an encoder reads, all of the target. `chat` puts dialogues together, `form` pairs."""
    targets, untold = 0, dict[str, None]()
    for stream, source, batch in drawn:
        pairs, roles = stream.phase.pairs, getattr(stream.phase, "train_on", ())
        template = form if pairs else chat
        spoken = stream.speaks(source) and not (pairs and stream.pair is not None)
        last = Turns.of(roles).last and template.first(codec.specials) is None
        if spoken and (last or template.speakers(codec.specials, ()) is None):
            untold[source] = None
            continue
        for row in range(len(batch.tokens)):
            filled = int(batch.filled[row])
            if wrong := torn(batch, row, stream.pair, codec.specials.eos if pairs else None):
                return Check(
                    name=MARKED,
                    holds=False,
                    path=("phases", stream.name, "mixture", source),
                    evidence=f"in a pair of {source} in {stream.name}, {wrong}",
                    hint="the layout in llmspec/data is at fault, not your spec",
                )
            read, before = inputs_of(batch, row)
            expected = marks(codec, template, read, roles)[before:] if spoken else [1] * filled
            found = (batch.weights[row] > 0).astype(int).tolist()  # how much is the record's own
            if stream.phase.cuts and stream.pair is None:  # nothing before a drawn place, and all behind it
                expected = [int(place >= found.index(1)) if 1 in found else 1 for place in range(filled)]
            targets += filled
            if found != expected + [0] * (len(found) - filled):
                place = next(i for i, w in enumerate([*expected, *[0] * (len(found) - filled)]) if w != found[i])
                verb = "counts in the loss and should not" if found[place] else "should count in the loss and does not"
                text = codec.decode([int(batch.targets[row, place])], specials=True)
                return Check(
                    name=MARKED,
                    holds=False,
                    path=("phases", stream.name, "mixture", source),
                    evidence=f"in a block of {source} in {stream.name}, position {place} ({text!r}) {verb}",
                    hint="the layout in llmspec/data is at fault, not your spec",
                )
    blocks = sum(len(batch.tokens) for _, source, batch in drawn if source not in untold)
    evidence = f"{targets:,} targets of {blocks:,} sampled blocks, read from their role and end-of-turn tokens"
    if untold:
        evidence += f"; the tokens of a {chat.kind} template do not tell who speaks in {', '.join(untold)}"
    return Check(name=MARKED, holds=None if untold else True, evidence=evidence)


def inputs_of(batch: Batch, row: int) -> tuple[list[int], int]:
    """(the tokens before the last target of a row, as one text; how many of them stand before the first target's)."""
    filled = int(batch.filled[row])
    if batch.encoder_tokens is None or batch.encoder_filled is None:
        return batch.tokens[row, :filled].tolist(), 0
    before = batch.encoder_tokens[row, : int(batch.encoder_filled[row])].tolist()
    return [*before, *batch.targets[row, : filled - 1].tolist()], len(before) - 1


def torn(batch: Batch, row: int, pair: Pair | None, end: int | None = None) -> str:
    """What is wrong with a pair of texts: the decoder reads the start token and the targets before its own, and the
    last of them is the token `end`, where one has to be."""
    if pair is None:
        return ""
    filled = int(batch.filled[row])
    wanted = [pair.start, *batch.targets[row, : filled - 1].tolist()]
    if filled and batch.tokens[row, :filled].tolist() != wanted:
        return "the decoder does not read the start token and what it has to predict, one place later"
    if filled and end is not None and int(batch.targets[row, filled - 1]) != end:
        return "the target does not end with the end token"
    return ""


def marks(codec: Codec, template: ChatTemplate, tokens: Sequence[int], train_on: Sequence[str]) -> list[int]:
    """For each input of packed dialogues, whether the token after it is learned: it is said by a role of `train_on`,
    and where that names the last turn, by nobody of these in the same dialogue later on."""
    turns, first = Turns.of(train_on), template.first(codec.specials)
    said = [role if role in turns.roles else None for role in template.speakers(codec.specials, tokens) or ()]
    found, open_ = [int(role is not None) for role in said], True
    for place in reversed(range(len(found) if turns.last else 0)):
        found[place] *= open_
        if said[place] is not None and (place == 0 or said[place - 1] != said[place]):
            open_ = False
        if tokens[place] == first:
            open_ = True
    return found


def numbering(codec: Codec, template: ChatTemplate, form: ChatTemplate, drawn: Drawn) -> Check:
    """Under a document mask: the number changes where a document begins, positions restart, padding stands apart."""
    places, untold = 0, dict[str, None]()
    for stream, source, batch in drawn:
        if not stream.phase.document_mask or stream.pair is not None:
            continue
        spoken = form if stream.phase.pairs else template
        first = spoken.first(codec.specials) if stream.speaks(source) else codec.specials.eos
        first = first if stream.around is None else stream.around[0][0]
        if first is None:
            untold[source] = None
            continue
        for row in range(len(batch.tokens)):
            filled, number, position = int(batch.filled[row]), 0, -1
            seen = batch.documents[row].tolist()
            for place, token in enumerate(batch.tokens[row, :filled].tolist()):
                begins = place > 0 and token == first
                number, position = number + begins, 0 if begins else position + 1
                places += 1
                if (seen[place], int(batch.positions[row, place])) != (number, position):
                    return _unnumbered(
                        stream,
                        source,
                        f"position {place} counts as document {seen[place]} at "
                        f"{batch.positions[row, place]}, and is in {number} at {position}",
                    )
            if filled < len(seen) and min(seen[filled:]) <= number:
                return _unnumbered(stream, source, f"the padding from position {filled} counts as a document")
    evidence = f"{places:,} positions of sampled blocks, read from their end tokens"
    if untold:
        evidence += f"; the tokens of {', '.join(untold)} do not tell where their documents begin"
    return Check(name=NUMBERED, holds=None if untold else True, evidence=evidence)


def _unnumbered(stream: PhaseStream, source: str, what: str) -> Check:
    return Check(
        name=NUMBERED,
        holds=False,
        path=("phases", stream.name, "mixture", source),
        evidence=f"in a block of {source} in {stream.name}, {what}",
        hint="the layout in llmspec/data is at fault, not your spec",
    )


# -- contamination ---------------------------------------------------------------------------------------------------
def unseen(prepared: PreparedData) -> Check:
    """No training document has the very tokens of a validation document, in any source."""
    both = sum(prepared.contaminated.values())
    if prepared.contamination == "allow":
        return Check(
            name=UNSEEN,
            holds=None,
            evidence=f"not checked (data.contamination: allow); {both:,} training documents are in validation",
        )
    compared = 0
    for form, sets in prepared.sides().items():
        trained, held_out = [traits(train) for _, train, _ in sets], [traits(held) for _, _, held in sets]
        shared = np.intersect1d(np.concatenate(trained), np.concatenate(held_out))
        held: dict[bytes, str] = {}
        for (source, _, validation), found in zip(sets, held_out, strict=True):
            held.update((key, source) for _, key in documents(validation, np.isin(found, shared)))
        for (source, train, _), found in zip(sets, trained, strict=True):
            compared += len(train.lengths)
            for i, key in documents(train, np.isin(found, shared)):
                if key in held:
                    return Check(
                        name=UNSEEN,
                        holds=False,
                        path=("data", "sources", source),
                        evidence=f"{form} document {i} of {source}'s training text is also in the validation text of "
                        f"{held[key]}",
                        hint="report it: llmspec/data should have left it out",
                    )
    dropped = f"; {both:,} were dropped, which differ in typography alone" if both else ""
    return Check(
        name=UNSEEN,
        holds=True,
        evidence=f"tokens of {compared:,} training document{'s' * (compared != 1)} compared{dropped}",
    )


def traits(data: TokenSet) -> np.ndarray:
    """(n,) uint64 that are the same for documents of the same tokens: made of their number and of three of them.

    They tell apart nearly all others, whatever the number of documents; those with shared ones are compared whole.
    """
    found = data.lengths.astype(np.uint64)
    full = np.flatnonzero(data.lengths)
    for place in (0, data.lengths[full] // 2, data.lengths[full] - 1):
        found[full] = found[full] * np.uint64(0x9E3779B97F4A7C15) + data.tokens[data.offsets[full] + place]
    return found


def documents(data: TokenSet, chosen: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """(number, hash of its tokens) of every chosen document that is not empty."""
    for i in np.flatnonzero(chosen & (data.lengths > 0)).tolist():
        found = hashlib.sha256()
        for begin in range(int(data.offsets[i]), int(data.offsets[i + 1]), AT_ONCE):
            piece = data.tokens[begin : min(begin + AT_ONCE, int(data.offsets[i + 1]))]
            found.update(np.ascontiguousarray(piece, np.uint32).data)
        yield i, found.digest()[:16]


Sides = Mapping[str, list[tuple[str, TokenSet, TokenSet]]]
"""Form -> (source, training tokens, validation tokens)."""
