"""What phases do not read of their sources, by reason: said before step 0, and refused where it is much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.core.problems import Problem
from llmspec.data import leaks
from llmspec.data.shaping import EMPTY, FORMAT, NOTHING_LEARNED, ROLE, TOO_LONG, VALIDATED
from llmspec.data.unknown import Unknown, named, share
from llmspec.parts.sources.notes import Notes

if TYPE_CHECKING:
    from llmspec.data.prepare import Prepared

SHOWN = 2
"""Places that are named for each reason in a sentence."""
ADVICE = {
    EMPTY: "a field that may be empty stands on a line or in a turn of its own",
    TOO_LONG: "raise model.context above {context}",
    ROLE: "turns are of system, developer, user and assistant",
    FORMAT: "`dialogue:` or `messages:` says how a record is read",
    NOTHING_LEARNED: "look at which roles `learn:` names",
    VALIDATED: "take the twins out of the source",
}
"""Reason -> what helps against it."""


class Loss(NamedTuple):
    """What one phase does not read of one source."""

    phase: str
    source: str
    records: int
    """Training records before anything was dropped."""
    dropped: Notes
    """Those that are not trained on, each under one reason."""
    held_out: int
    """Records kept for validation."""
    not_validated: Notes
    """Those of them that are not validated on."""

    @property
    def share(self) -> float:
        """Share of the training records that are dropped."""
        return sum(self.dropped.counts.values()) / self.records if self.records else 0.0


def loss(phase: str, source: str, about: Mapping[str, Any], allowed: bool, trained: Mapping[str, int],
         validated: Mapping[str, int]) -> Loss:
    """From the notes on a source's tokens; `trained` and `validated` are what the layouts left out, by reason.

    `allowed` says that training documents which are validated with too are read all the same.
    """
    sides = {}
    for side, left_out in (("train", trained), ("validation", validated)):
        before, notes = Notes.parse(about[side]["dropped"]), Notes()
        for reason, count in {**before.counts, **left_out}.items():
            notes.add(reason, count=count)
        notes.examples.update(before.examples)
        sides[side] = notes, about[side]["documents"] + sum(before.counts.values())
    (dropped, records), (not_validated, held_out) = sides["train"], sides["validation"]
    if about["in_both"] and not allowed:
        records += about["in_both"]
        dropped.add(VALIDATED, count=about["in_both"])
        dropped.examples[VALIDATED] = [f"{trained} is {held}" for trained, held in about["leaks"]]
    return Loss(phase, source, records, dropped, held_out, not_validated)


def reasons(notes: Notes) -> str:
    """`7 empty (qa.jsonl:12), 3 too long`, the largest number first."""
    told = []
    for reason, count in sorted(notes.counts.items(), key=lambda item: -item[1]):
        places = notes.examples.get(reason, [])[:SHOWN]
        more = ", ..." if places and count > len(places) else ""
        told.append(f"{count:,} {reason}" + (f": {'; '.join(places)}{more}" if places else ""))
    return ", ".join(told) if not any(notes.examples.values()) else "; ".join(told)


def too_many(found: Loss, most: float, context: int) -> Iterator[Problem]:
    """The problem of a phase that would lose more of a source than `most` (a share) allows."""
    if found.share <= most:
        return
    lost = sum(found.dropped.counts.values())
    first = max(found.dropped.counts, key=lambda reason: found.dropped.counts[reason])
    advice = ADVICE.get(first, "mend the records").format(context=context)
    yield Problem(
        f"{found.phase} would leave out {lost:,} of {found.records:,} records of {found.source}, more than its "
        f"max_dropped of {100 * most:g}%: {reasons(found.dropped)}", ("phases", found.phase, "mixture", found.source),
        f"{advice}; or write `max_dropped: {ceil(100 * found.share)}%` at data.sources.{found.source}",
        f"the phase would train on the other {found.records - lost:,} alone")


def unknown_letters(source: str, about: Mapping[str, Any], most: float) -> Iterator[Problem]:
    """The problems of a source with more unknown characters than `most` (a share) allows."""
    for side, what in (("train", "training"), ("validation", "validation")):
        found = about[side]["unknown"]
        if share(found) > most:
            yield Problem(
                f"{_percent(share(found))} of the {what} text of {source} are characters that the vocabulary has not: "
                f"{named(found)}", ("data", "sources", source),
                "raise tokenizer.vocab, use `tokenizer: {kind: byte}` or `{kind: bpe, ...}`, or write "
                f"`tokenizer: {{max_unknown: {ceil(100 * share(found))}%}}`",
                "each of them would be read and written as the same unknown token <|unk|>")


def notices(prepared: Prepared) -> Iterator[str]:
    """Everything that a person should know of the data before step 0, in sentences."""
    for source, about in prepared.about.items():
        yield from (f"{source}: left out {line}" for line in Notes.parse(about["notes"]).lines())
        if about["duplicates"]:
            n = about["duplicates"]
            yield (f"{source}: {n:,} of its {about['documents']:,} documents repeat{'s' * (n == 1)} another one of it, "
                   "and are kept")
        if about["in_both"] and prepared.leaks == "allow":
            yield leaks.notice(source, about["in_both"], prepared.leaks, about["leaks"])
        for side, what in (("train", "training"), ("validation", "validation")):
            if (found := about[side]["unknown"])["unknown"]:
                yield (f"{source}: {found['unknown']:,} characters of its {what} text ({_percent(share(found))}) are "
                       f"not in the vocabulary and become <|unk|>: {named(found)}")
    for found in prepared.losses:
        for notes, records, what in ((found.dropped, found.records, "training records of"),
                                     (found.not_validated, found.held_out, "validation records of")):
            if lost := sum(notes.counts.values()):
                yield (f"{found.phase} leaves out {lost:,} of {records:,} {what} {found.source}: {reasons(notes)}")
    for name, prompts in prepared.prompts.items():
        if (found := Unknown(prepared.codec).add(prompts).dump())["unknown"]:
            yield (f"the prompts of {name} have {found['unknown']:,} characters that are not in the vocabulary: "
                   f"{named(found)}")


def _percent(value: float) -> str:
    return f"{100 * value:.2g}%" if value < 0.995 else f"{100 * value:.0f}%"
