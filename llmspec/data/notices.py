"""What a person should know of the data before step 0, in sentences: `run` and `check --data` say it."""

from __future__ import annotations

from collections.abc import Iterator

from llmspec.data import contamination
from llmspec.data.asking import asking_notices
from llmspec.data.losses import percent
from llmspec.data.prepare import PreparedData
from llmspec.data.unknown import named, share
from llmspec.parts.sources.notes import Notes


def notices(prepared: PreparedData) -> Iterator[str]:
    """Everything that a person should know of the data before step 0, in sentences."""
    yield from (f"{said.path}: {said.value}; {said.why}" for said in prepared.measured.decisions)
    for source, about in prepared.about.items():
        for notes in (prepared.not_found.get(source, Notes()), Notes.parse(about["notes"])):
            yield from (f"{source}: {line}" for line in notes.said())
        if about["duplicates"]:
            n = about["duplicates"]
            yield (
                f"{source}: {n:,} of its {about['documents']:,} documents {'duplicates' if n == 1 else 'duplicate'} "
                f"another one and {'is' if n == 1 else 'are'} kept"
            )
        if about["contaminated"] and prepared.contamination == "allow":
            yield contamination.notice(source, about["contaminated"], about["contaminated_examples"])
        for side, what in (("train", "training"), ("validation", "validation")):
            if (found := about[side]["unknown"])["unknown"]:
                yield (
                    f"{source}: {found['unknown']:,} characters of its {what} text ({percent(share(found))}) are "
                    f"not in the vocabulary and become <|unk|>: {named(found)}"
                )
    yield from asking_notices(prepared)
    for found in prepared.losses:
        for notes, records, what in (
            (found.dropped, found.records, "training records of"),
            (found.not_validated, found.held_out, "validation records of"),
        ):
            if lost := sum(notes.counts.values()):
                yield (f"{found.phase} leaves out {lost:,} of {records:,} {what} {found.source}: {notes.reasons()}")
    for name in prepared.phases:
        stream = prepared.stream(name)
        for source in stream.sources:
            for side, n in stream.cropped(source).items():
                if n:
                    pairs = "pair" if n == 1 else "pairs"
                    yield f"{name} cuts the {side} of {n:,} training {pairs} of {source} to what the model reads of it"
