"""Sources to shaped, split documents: what trains, what validates, what was dropped and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmspec.core.problems import DataError, Problem
from llmspec.data.contamination import EXAMPLES, Contaminated, Content, HeldOut
from llmspec.data.fields import Fields
from llmspec.data.formats import recognised
from llmspec.data.grouping import grouped
from llmspec.data.preferences import Compared, best_dialogue, best_text, comparison_of
from llmspec.data.shaping import FORMAT, Dropped, dialogue, plain_text
from llmspec.data.split import TRAINS, VALIDATES, Shaped, joined
from llmspec.data.survey import Changed, Read, Survey, survey, walk
from llmspec.data.views import Form, SourceView
from llmspec.parts.sources import Document, Fetcher, Source
from llmspec.parts.sources.notes import Notes
from llmspec.parts.templates.base import Pieces, Turn

_LONG = 10_000
"""Characters from which a document can be shortened instead of left out."""


class Side:
    """Some documents of a source, read anew each time they are gone through."""

    def __init__(self, reading: SourceReading, side: int, chosen: np.ndarray) -> None:
        """`chosen` (n,) bool: those of the side that belong to it."""
        self._reading, self._side, self._chosen = reading, side, chosen

    def __len__(self) -> int:
        return int(self._chosen.sum())

    @property
    def characters(self) -> int:
        """Characters of the plain texts of all of them, markers excluded."""
        lengths = self._reading.lengths(self._side)
        return int(lengths[self._chosen].sum())

    def __iter__(self) -> Iterator[Shaped]:
        return joined(item for _, item in self.stretches())

    def stretches(self) -> Iterator[tuple[int, Shaped]]:
        """(number of the document, stretch of it)."""
        return (
            (number, item) for side, number, item in self._reading.walk() if side == self._side and self._chosen[number]
        )


@dataclass
class SourceReading:
    """One source's documents: what a first pass found of them. They themselves are read again wherever it matters."""

    name: str
    read: Read
    survey: Survey
    notes: Notes
    """What its files have that no document is made of."""
    wanted: tuple[Form, ...]
    """How phases read it; plain text is always looked at."""
    contaminated: dict[Form, np.ndarray] = field(default_factory=dict)
    """(n,) bool by form: training documents that some source validates with, as text or as dialogue."""
    contaminated_examples: dict[Form, list[Contaminated]] = field(default_factory=dict)
    """The first of them."""
    allowed: bool = False
    """Whether those are read nevertheless."""

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.survey.documents

    @property
    def content(self) -> dict[Form, Content]:
        """The set of texts, or of dialogues."""
        return self.survey.contents()

    @property
    def contaminated_count(self) -> dict[Form, int]:
        """Number of training documents that some source validates with."""
        return {form: int(found.sum()) for form, found in self.contaminated.items()}

    @property
    def train(self) -> Side:
        """Training documents."""
        return Side(self, TRAINS, self.survey.on(TRAINS))

    @property
    def validation(self) -> Side:
        """Validation documents."""
        return Side(self, VALIDATES, self.survey.on(VALIDATES))

    @property
    def train_of(self) -> dict[Form, Side]:
        """Training documents that are read: no contaminated ones are among them, unless they are allowed."""
        on = self.survey.on(TRAINS)
        return {
            form: Side(self, TRAINS, on if self.allowed else on & ~found) for form, found in self.contaminated.items()
        }

    def walk(self) -> Iterator[tuple[int, int, Shaped]]:
        """(side, number, stretch) of all documents. Raises DataError where they have changed since the first pass."""
        try:
            yield from walk(self.read, self.survey)
        except Changed:
            raise changed(self.name) from None
        except DataError as error:
            raise DataError(problem.at("data", "sources", self.name) for problem in error.problems) from None

    def lengths(self, side: int) -> np.ndarray:
        """(n,) characters of each document's plain text, markers excluded, as far as it is on that side."""
        survey = self.survey
        if survey.border < 0:
            return survey.characters
        found = survey.characters.copy()
        found[survey.border] = survey.cut.at if side == TRAINS else found[survey.border] - survey.cut.at
        return found

    def texts(self, side: Iterable[Shaped]) -> list[Pieces]:
        """The plain texts of a side."""
        return [item.plain for item in side if item.plain is not None]

    def dialogues(self, side: Iterable[Shaped]) -> list[list[Turn]]:
        """The dialogues of a side."""
        return [item.turns for item in side if item.turns is not None]


def changed(name: str) -> DataError:
    """The error for a source whose files are written while they are read."""
    return DataError(
        Problem(
            f"the files of {name} changed while they were read",
            ("data", "sources", name),
            "start again once nothing writes to them",
            "text of two versions would be mixed",
        )
    )


def read_all(
    sources: Mapping[str, Source],
    views: Iterable[SourceView],
    fetch: Fetcher,
    markers: Sequence[str],
    progress: Callable[[str, int, int], None],
    contamination: str,
    most: int | None = None,
) -> dict[str, SourceReading]:
    """Look at every document of every source, split them, and find in training what any source validates with.

    With `contamination` "allow", it is found and kept; whether it is refused is for who asks. A source of more than
    `most` characters is refused.

    Raises:
        DataError: the problems of all sources at once, each with its path in the spec.
    """
    wanted: dict[str, tuple[Form, ...]] = dict.fromkeys(sources, ("plain",))
    for view in views:
        if view.read_as != "plain":
            wanted[view.source] = tuple(dict.fromkeys((*wanted[view.source], view.read_as)))

    def read(name: str, source: Source) -> SourceReading:
        progress(f"reading {name}", 0, 0)
        return _read(name, source, fetch, markers, wanted[name], most)

    readings: dict[str, SourceReading] = each_source(sources, read)
    find_contamination(readings)
    for reading in readings.values():
        reading.allowed = contamination == "allow"
    return readings


def find_contamination(readings: Mapping[str, SourceReading]) -> None:
    """Note what trains and validates.

    As dialogues, documents may not be held out in either form: what is read aloud is read. Of answers that are
    compared, no prompt may be held out.
    """
    numbers = {name: np.flatnonzero(r.survey.on(VALIDATES)) for name, r in readings.items()}
    comparing = {name: found[readings[name].survey.compares[found]] for name, found in numbers.items()}
    speaking = {name: found[readings[name].survey.speaks[found]] for name, found in numbers.items()}
    asked = HeldOut(_keys(_prompts(readings[name].survey, found) for name, found in comparing.items()))
    texts = HeldOut(_keys(readings[name].survey.keys(VALIDATES)[found] for name, found in numbers.items()))
    spoken = HeldOut(_keys(readings[name].survey.dialogue_keys[found] for name, found in speaking.items()))
    for reading in readings.values():
        survey, on = reading.survey, np.flatnonzero(reading.survey.on(TRAINS))
        as_asked = np.full(len(on), -1)
        as_asked[survey.compares[on]] = asked.find(_prompts(survey, on[survey.compares[on]]))
        as_text = texts.find(survey.keys(TRAINS)[on])
        as_spoken = np.where(survey.speaks[on], spoken.find(survey.dialogue_keys[on]), -1)
        heard = survey.speaks if "dialogue" in reading.wanted else np.ones(survey.documents, bool)
        by_form = (
            ("plain", survey.plain, [(as_text, numbers)]),
            ("dialogue", heard, [(as_text, numbers), (as_spoken, speaking)]),
            ("preference", survey.compares, [(as_asked, comparing)]),
        )
        for form, has, ways in by_form:
            found = np.any([place >= 0 for place, _ in ways], axis=0) & has[on]
            reading.contaminated[form] = np.zeros(survey.documents, bool)
            reading.contaminated[form][on[found]] = True
            first = np.flatnonzero(found)[:EXAMPLES].tolist()
            reading.contaminated_examples[form] = _named(
                readings,
                reading.name,
                [(int(on[i]), *next(_owner(of, int(at[i])) for at, of in ways if at[i] >= 0)) for i in first],
            )


def _prompts(survey: Survey, numbers: np.ndarray) -> np.ndarray:
    """S16 keys of the prompts of documents that compare answers."""
    return survey.prompt_keys[np.cumsum(survey.compares)[numbers] - 1]


def _keys(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, "S16"), *parts])


def _owner(numbers: Mapping[str, np.ndarray], place: int) -> tuple[str, int]:
    """The source and the number in it of what stands at a place of all of them."""
    for name, found in numbers.items():
        if place < len(found):
            return name, int(found[place])
        place -= len(found)
    raise IndexError(place)


def _named(
    readings: Mapping[str, SourceReading], source: str, found: Sequence[tuple[int, str, int]]
) -> list[Contaminated]:
    """(number in `source`, source that validates, number in it) as places."""
    wanted: dict[str, set[int]] = {}
    for trained, name, validated in found:
        wanted.setdefault(source, set()).add(trained)
        wanted.setdefault(name, set()).add(validated)
    where: dict[tuple[str, int], str] = {}
    for name, numbers in wanted.items():
        last = max(numbers)
        for _, number, item in readings[name].walk():
            if number in numbers:
                where[name, number] = item.document.where
            if number >= last:
                break
    return [
        Contaminated(where[source, trained], f"{name} ({where[name, validated]})") for trained, name, validated in found
    ]


def each_source(sources: Mapping[str, Source], do: Callable[[str, Source], Any]) -> dict[str, Any]:
    """`do` for every source; the DataErrors of all of them in one, at their paths in the spec."""
    results, problems = {}, []
    for name, source in sources.items():
        try:
            results[name] = do(name, source)
        except DataError as error:
            problems += [problem.at("data", "sources", name) for problem in error.problems]
    if problems:
        raise DataError(problems)
    return results


def fingerprints(sources: Mapping[str, Source], fetch: Fetcher, notes: dict[str, Notes]) -> dict[str, Any]:
    """By source: a JSON-able value that changes when its documents do. Raises DataError as `read_all` does.

    `notes` gets what each source leaves out of what it finds, which can change while its text stays.
    """

    def of(name: str, source: Source) -> Any:
        notes[name] = Notes()
        return source.fingerprint(fetch.noting(notes[name]))

    return each_source(sources, of)


def thinned(stretches: Iterable[tuple[int, str, bool]], fraction: float) -> Iterator[tuple[str, bool]]:
    """About that fraction of the characters, spread evenly: of long texts the first part, of short ones every nth.

    Stretches of texts are (characters of the whole text, stretch, whether the next one goes on with it); so come those
    that stay.
    """
    due, begin = 0.0, 0
    for length, text, more in stretches:
        if fraction >= 1:
            yield text, more
        elif length >= _LONG:
            yield text[: max(0, int(length * fraction) - begin)], more
            begin = begin + len(text) if more else 0
        else:
            due += length * fraction
            if due >= length / 2:
                yield text, more
                due -= length


def dropped(notes: Notes, item: Shaped, form: Form) -> None:
    """Note a document that is not read in that form, by reason."""
    if not item.document.more and (why := item.dropped.get(form)) is not None:
        notes.add(why.reason, item.document.where + (f": {why.detail}" if why.detail else ""))


def _read(
    name: str, source: Source, fetch: Fetcher, markers: Sequence[str], wanted: tuple[Form, ...], most: int | None
) -> SourceReading:
    notes, fields = Notes(), Fields(source, "dialogue" in wanted)
    first = True

    def read() -> Iterator[Shaped]:
        nonlocal first
        # Later passes would only count the same once more, and say that they read amid what they read for.
        now, first = (fetch.noting(notes) if first else fetch.noting(Notes(), quiet=True)), False
        return _stretches(source, now, markers, wanted)

    def looked_at() -> Iterator[Shaped]:
        size = 0
        for item in read():
            fields.look(item.document)
            size += len(item.text)
            if most is not None and size > most:
                raise DataError(
                    f"more than {most / 1e6:.0f} million characters of {name} are not tokenised yet",
                    "`llmspec check SPEC --data` does it, once",
                    "it would take longer than asked for",
                )
            yield item
        fields.check(notes)

    passes = iter((looked_at,))
    return SourceReading(name, read, survey(lambda: next(passes, read)(), source.validation), notes, wanted)


def _stretches(source: Source, fetch: Fetcher, markers: Sequence[str], wanted: tuple[Form, ...]) -> Iterator[Shaped]:
    """Every document, shaped; a long text in stretches."""
    inside = False
    clean = (d if d.record is None else d._replace(record=source.cleaned(d.record)) for d in source.documents(fetch))
    for document in grouped(source, clean, fetch.notes):
        item = _shape(source, document, markers, wanted)
        if inside or document.more:
            # A stretch of nothing but white space is text all the same.
            why = {form: drop for form, drop in item.dropped.items() if form == "dialogue" or source.text is not None}
            item = Shaped(document, document.text, None if "plain" in why else (document.text,), None, why)
        yield item
        inside = document.more


def _shape(source: Source, document: Document, markers: Sequence[str], wanted: Sequence[Form]) -> Shaped:
    compared = comparison_of(source, document, markers)
    of_best = compared if source.comparison else None
    found: dict[Form, Any] = {"plain": plain_text(source, document, markers)}
    if of_best is not None and source.text is None:
        found["plain"] = best_text(of_best)
    if "dialogue" in wanted:
        spoken = dialogue(source, document, markers) if of_best is None else best_dialogue(of_best)
        if of_best is None and isinstance(compared, Compared) and recognised(document.record or {}) is None:
            # What compares answers asks something, whatever the better answer is.
            best = best_dialogue(compared)
            spoken = list(compared.prompt) if isinstance(best, Dropped) else best
        found["dialogue"] = spoken
    if "preference" in wanted:
        found["preference"] = Dropped(FORMAT, "no answers that are compared") if compared is None else compared
    why = {form: value for form, value in found.items() if isinstance(value, Dropped)}
    plain, turns = (None if form in why else found.get(form) for form in ("plain", "dialogue"))
    text = "".join(plain) if plain else json.dumps(document.record, ensure_ascii=False, default=str)
    return Shaped(document, text, plain, turns, why, None if isinstance(compared, Dropped) else compared)
