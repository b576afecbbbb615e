"""What phases do not read of their sources, by reason, and refused where it is much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Any, NamedTuple

from llmspec.core.problems import Problem
from llmspec.data.advice import advice
from llmspec.data.shaping import TOO_LONG, VALIDATED
from llmspec.data.unknown import named, share
from llmspec.parts.sources.notes import Notes

if TYPE_CHECKING:
    from llmspec.data.validation import ValidationSet
    from llmspec.parts.phases import Phase


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


def loss(
    phase: str,
    source: str,
    about: Mapping[str, Any],
    allowed: bool,
    trained: Mapping[str, int],
    validated: Mapping[str, int],
) -> Loss:
    """From the notes on a source's tokens; `trained` and `validated` are what the layouts left out, by reason.

    `allowed` says that training documents which are also in validation are read all the same.
    """
    sides = {}
    for side, by_layout in (("train", trained), ("validation", validated)):
        before, notes = Notes.parse(about[side]["dropped"]), Notes()
        for reason, count in {**before.counts, **by_layout}.items():
            notes.add(reason, count=count)
        notes.examples.update(before.examples)
        sides[side] = notes, about[side]["documents"] + sum(before.counts.values())
    (dropped, records), (not_validated, held_out) = sides["train"], sides["validation"]
    if about["contaminated"] and not allowed:
        records += about["contaminated"]
        dropped.add(VALIDATED, count=about["contaminated"])
        dropped.examples[VALIDATED] = [f"{trained} is {held}" for trained, held in about["contaminated_examples"]]
    return Loss(phase, source, records, dropped, held_out, not_validated)


def too_many(found: Loss, phase: Phase, most: float, needed: int) -> Iterator[Problem]:
    """The problem of a phase that would lose more of a source than `most` (a share) allows.

    `needed` tokens of context hold nine tenths of its dialogues.
    """
    if found.share <= most:
        return
    lost = sum(found.dropped.counts.values())
    first = max(found.dropped.counts, key=lambda reason: found.dropped.counts[reason])
    helps = advice(first, phase, needed) or "fix the records"
    yield Problem(
        f"{found.phase} would leave out {lost:,} of {found.records:,} records of {found.source}, more than its "
        f"max_dropped of {100 * most:g}%: {found.dropped.reasons()}",
        ("phases", found.phase, "mixture", found.source),
        f"{helps}; or write `max_dropped: {ceil(100 * found.share)}%` at data.sources.{found.source}",
        f"the phase would train on the other {found.records - lost:,} alone",
    )


def unknown_letters(source: str, abouts: Sequence[Mapping[str, Any]], most: float) -> Iterator[Problem]:
    """The problems of a source with more unknown characters than `most` (a share) allows, in any of its forms."""
    for side, what in (("train", "training"), ("validation", "validation")):
        found = max((about[side]["unknown"] for about in abouts), key=share)
        if share(found) > most:
            yield Problem(
                f"{percent(share(found))} of the characters in the {what} text of {source} are not in the vocabulary: "
                f"{named(found)}",
                ("data", "sources", source),
                "raise tokenizer.vocab, use `tokenizer: {kind: byte}` or `{kind: bpe, ...}`, or write "
                f"`tokenizer: {{max_unknown: {ceil(100 * share(found))}%}}`",
                "each of them would be read and written as the same unknown token <|unk|>",
            )


def folded(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once that several phases have with the same words, with the names of the others."""
    alike: dict[tuple[Any, ...], list[Problem]] = {}
    for problem in problems:
        name = str(problem.path[1]) if problem.path[:1] == ("phases",) and len(problem.path) > 1 else ""
        without = problem.message.removeprefix(f"{name} ")
        alike.setdefault((without, *problem.path[2:], problem.hint, problem.consequence), []).append(problem)
    found = []
    for first, *others in alike.values():
        names = [str(other.path[1]) for other in others if other.path[:2] != first.path[:2]]
        more = f"; likewise in {', '.join(names)}" if names else ""
        found.append(replace(first, message=first.message + more))
    return found


def percent(value: float) -> str:
    """0.0123 -> '1.2%'."""
    return f"{100 * value:.2g}%" if value < 0.995 else f"{100 * value:.0f}%"


def nothing_to_validate(name: str, phase: Phase, found: ValidationSet) -> Problem:
    """The problem of a source with nothing that a phase could be validated with."""
    why = "; ".join(f"{n} {reason}" for reason, n in found.dropped.items())
    first = max(found.dropped, key=lambda reason: found.dropped[reason], default=TOO_LONG)
    helps = "" if first == TOO_LONG else advice(first, phase) or "look at its records"
    return Problem(
        f"the validation text of {found.source} has no token that this phase trains on" + (f" ({why})" if why else ""),
        ("phases", name, "mixture", found.source),
        "keep more of it for validation" + (f"; {helps}" if helps else ", or raise model.context"),
        "its validation loss would be undefined",
    )
