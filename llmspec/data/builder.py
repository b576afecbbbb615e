"""What phases read, made from texts where the cache does not have it: the tokenizer, and token files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from llmspec.core.hashing import digest
from llmspec.core.problems import DataError, RunError
from llmspec.data import artifact_cache
from llmspec.data.artifact_cache import Entry
from llmspec.data.contamination import Content
from llmspec.data.derived import Derived
from llmspec.data.fetch import Fetch, Progress
from llmspec.data.labels import LabelColumn
from llmspec.data.pair_form import PairForm, TextsApart
from llmspec.data.preferences import ASSISTANT_FIRST, ONE_SIDED
from llmspec.data.prompts import ASKED, RECORDS, RecordColumn, asks_last, starts_with_answer
from llmspec.data.reading import SourceReading, changed, dropped, fingerprints, read_all, thinned
from llmspec.data.recognition import Found
from llmspec.data.shaping import NO_PAIR, REFUSED, Dropped
from llmspec.data.shots import Filled
from llmspec.data.split import SIDES, TRAINS, Shaped
from llmspec.data.tags import TagColumn
from llmspec.data.tokens import TokenSet, join_text
from llmspec.data.unknown import Unknown
from llmspec.data.views import FORMAT, PROMPT, SPOKEN, SourceView
from llmspec.data.weighing import WeightColumn, weight_columns
from llmspec.data.writing import Cutter, FileRows, TokenWriter
from llmspec.parts.sources import Source
from llmspec.parts.sources.notes import Notes
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.templates.base import Turn
from llmspec.parts.templates.sandbox import TemplateRefusal
from llmspec.parts.tokenizers import Codec, Tokenizer

TOKENIZER_TEXT = 100_000_000
"""Characters that a tokenizer is trained on, at most."""
_TOLD = 1_000_000
"""Characters after which it is told how far gathering has come."""


def roles_of(turns: Sequence[Turn]) -> tuple[str, ...]:
    """Who speaks, turn by turn."""
    return tuple(turn.role for turn in turns)


@dataclass
class DataBuilder:
    """Makes what is missing in the cache. Texts are read only if something is missing, and never kept in memory."""

    tokenizer: Tokenizer
    template: ChatTemplate
    sources: Mapping[str, Source]
    views: list[SourceView]
    prints: Mapping[str, Any]
    keys: Mapping[SourceView, str]
    weights: Mapping[str, float]
    fetch: Fetch
    report: Progress
    contamination: str
    found: Mapping[str, Found]
    most: int | None = None
    """Characters of a source that may be read anew."""
    pairs: PairForm = field(default_factory=PairForm)
    """What puts a pair together."""
    seed: int = 0
    """What examples before dialogues are drawn from."""

    @cached_property
    def readings(self) -> dict[str, SourceReading]:
        return read_all(
            self.sources, self.views, self.fetch, self.tokenizer.markers, self.report, self.contamination, self.most
        )

    @property
    def codec_key(self) -> str:
        texts = [self.keys[SourceView(name, "plain")] for name in self.sources] if self.tokenizer.learns else []
        settings = {"format": FORMAT, "tokenizer": self.tokenizer.identity()}
        sample = {"most": TOKENIZER_TEXT, "weights": [self.weights[name] for name in self.sources]}
        return digest({**settings, "texts": texts, "sample": sample if self.tokenizer.learns else {}})

    def codec(self) -> Codec:
        entry = artifact_cache.find("tokenizers", self.codec_key)
        if entry is not None:
            try:
                return self.tokenizer.load((entry.folder / "tokenizer.json").read_bytes().decode())
            except DataError:  # written by another version of the library
                pass

        def write(folder: Path) -> dict[str, Any]:
            sample = self._sample() if self.tokenizer.learns else ()
            codec = self.tokenizer.train(sample, lambda what: self.report(what, 0, 0))
            (folder / "tokenizer.json").write_bytes(codec.to_json().encode())
            return {"vocab": codec.vocab}

        made = artifact_cache.make("tokenizers", self.codec_key, write)
        return self.tokenizer.load((made.folder / "tokenizer.json").read_bytes().decode())

    def _sample(self) -> Iterator[str]:
        """Training text in the proportions of the mixture, as far as each source's text goes; long texts in pieces."""
        sides = {name: reading.train_of["plain"] for name, reading in self.readings.items()}
        sizes = {name: side.characters for name, side in sides.items()}
        most, done = min(TOKENIZER_TEXT, sum(sizes.values())), 0
        cutter = Cutter(self.tokenizer.cut)
        for name, side in sides.items():
            lengths = self.readings[name].lengths(TRAINS)
            texts = (
                (int(lengths[number]), self._learned(name, item), item.document.more)
                for number, item in side.stretches()
                if item.plain is not None
            )
            for text, more in thinned(texts, self.weights[name] * most / max(1, sizes[name])):
                yield from cutter.push(text)
                if not more:
                    yield from cutter.end()
                if done // _TOLD < (done := done + len(text)) // _TOLD:
                    self.report("gathering text for the tokenizer", done, most)

    def _learned(self, name: str, item: Shaped) -> str:
        """What a tokenizer learns of a document: its plain text, and the worse answers that this leaves out."""
        text = join_text(item.plain or ())
        if item.compared is None or not self.sources[name].comparison:
            return text
        return "\n\n".join([text, *map(join_text, item.compared.answers[1:])])

    def template_of(self, view: SourceView) -> ChatTemplate | None:
        """What puts the turns of a view together; None where it has none."""
        spoken = dict.fromkeys((*SPOKEN, "preference"), self.template)
        return {**spoken, "pair": self.pairs, "apart": TextsApart()}.get(view.form)

    def tokens(self, view: SourceView, codec: Codec) -> Entry:
        template = self.template_of(view)
        spoken = {"chat template": template.identity()} if template is not None else {}
        shown = view.form in SPOKEN and self.sources[view.source].shots
        derives = view.form == "preference" and self.sources[view.source].rejected_from
        key = digest(
            {
                "format": FORMAT,
                "text": self.keys[view],
                "tokenizer": digest(self.tokenizer.codec_identity(codec)),
                "revision": self.tokenizer.revision,
                **spoken,
                **({"shots": [shown, self.seed]} if shown else {}),
                **({"derived": [derives, self.seed]} if derives else {}),
                **({"asked": ASKED} if view.form == PROMPT else {}),
            }
        )
        if found := artifact_cache.find("tokens", key):
            try:
                for side in SIDES:
                    TokenSet.load(found.folder, side, codec.vocab, found.about[side])
                return found
            except (RunError, KeyError, TypeError):
                artifact_cache.discard(found.folder)

        def write(folder: Path) -> dict[str, Any]:
            with ExitStack() as opened:  # whatever ends the writing closes the files

                def open_(side: str, field: str, kind: type, shape: tuple[int, ...]) -> FileRows:
                    rows = FileRows(folder / f"{side}.{field}.npy", kind, shape)
                    opened.callback(rows.release)
                    return rows

                return self._write(open_, view, codec)

        return artifact_cache.make("tokens", key, write)

    def _write(self, open_: Callable[..., FileRows], view: SourceView, codec: Codec) -> dict[str, Any]:
        """One pass over a source, to the files of both sides."""
        reading = self.readings[view.source]
        form = view.read_as
        held = reading.content.get(form, Content("", 0, 0))
        total, done = int(reading.survey.lengths.sum()), 0

        def tell(characters: int) -> None:
            nonlocal done
            done = min(total, done + characters)
            self.report(f"tokenising {view.source}", done, total)

        template = self.template_of(view)
        cut = self.tokenizer.cutter(codec)
        tagged, compares = view.form == "tags", form == "preference"
        how = (cut, template, tell, tagged, compares)
        writers = [TokenWriter(codec, partial(open_, side), *how) for side in SIDES]
        source = self.sources[view.source]
        beside, weighed = columns(view, source, open_), weight_columns(source, open_)
        notes, letters = [Notes() for _ in SIDES], [Unknown(codec) for _ in SIDES]
        derived = Derived(source, reading, self.seed, compares)
        filled = Filled(source, reading, self.seed, view.form in SPOKEN)
        skipped = np.zeros(reading.documents, bool) if reading.allowed else reading.contaminated[form]
        for side, number, item in reading.walk():
            if side == TRAINS and skipped[number]:
                continue
            dropped(notes[side], item, form)
            if form in item.dropped:
                continue
            item = derived.item(side, number, filled.item(side, number, item))
            why = self._put(item, template, writers[side], weighed[side], beside[side] if beside else None)
            if why is None:
                letters[side].add(join_text(text) for text in view.contents(item))
            elif not item.document.more:
                notes[side].add(why.reason, item.document.where + (f": {why.detail}" if why.detail else ""))
        more = [column.close() for column in weighed]
        more = [{**found, **column.close()} for found, column in zip(more, beside, strict=True)] if beside else more
        counts = {
            name: {**writer.close(), "unknown": found.dump(), "dropped": noted.dump()}
            for name, writer, found, noted in zip(SIDES, writers, letters, notes, strict=True)
        }
        counts = {name: {**found, **more[i]} for i, (name, found) in enumerate(counts.items())}
        self._check_unchanged()
        return {
            **counts,
            **filled.noted,
            "source": view.source,
            "form": view.form,
            "documents": reading.documents,
            "contaminated": reading.contaminated_count[form],
            "contaminated_examples": reading.contaminated_examples[form],
            "content": held.key,
            "duplicates": held.duplicates,
            "notes": reading.notes.dump(),
        }

    def _put(
        self,
        item: Shaped,
        template: ChatTemplate | None,
        writer: TokenWriter,
        weighed: WeightColumn,
        beside: LabelColumn | TagColumn | RecordColumn | None,
    ) -> Dropped | None:
        """Write a document, and what stands beside it; why it is left out, where it is."""
        weight = weighed.of(item.document)
        if isinstance(weight, Dropped):
            return weight
        paired = isinstance(template, PairForm | TextsApart)
        if paired and item.turns is not None and roles_of(item.turns) != ("user", "assistant"):
            return Dropped(NO_PAIR, ", ".join(roles_of(item.turns)))
        compared = item.compared if writer.compares else None
        if writer.compares and compared is None:
            return Dropped(ONE_SIDED, "no other record has another answer")
        if isinstance(beside, RecordColumn) and starts_with_answer(item.turns or ()):
            return Dropped(ASSISTANT_FIRST)
        if template is not None and (compared is not None or item.turns is not None):
            try:
                if compared is not None:
                    writer.comparison(compared.dialogues, compared.ranks, compared.margin)
                elif isinstance(beside, RecordColumn) and asks_last(item.turns or ()):
                    writer.prompt(item.turns or ())
                else:
                    writer.dialogue(item.turns or ())
            except TemplateRefusal as refusal:
                return Dropped(REFUSED, refusal.problems[0].message)
            if isinstance(beside, RecordColumn):
                beside.add(item.document)
        elif isinstance(beside, TagColumn):
            if isinstance(found := beside.add(item.document), Dropped):
                return found
            writer.tagged(*found)
        elif template is None and item.plain is not None:
            if isinstance(beside, LabelColumn) and (why := beside.add(item.document)) is not None:
                return why
            writer.text(item.plain, item.document.more)
        weighed.append(weight)
        return None

    def _check_unchanged(self) -> None:
        """Raises DataError where sources have changed since their text's key was made."""
        now = fingerprints(self.sources, self.fetch, {})
        if problems := [
            problem for name in self.sources if now[name] != self.prints[name] for problem in changed(name).problems
        ]:
            raise DataError(problems)


def columns(
    view: SourceView, source: Source, open_: Callable[..., FileRows]
) -> Sequence[LabelColumn | TagColumn | RecordColumn]:
    """What is written of each side beside the text; nothing for the text alone."""
    if view.form == "tags":
        return [TagColumn(source) for _ in SIDES]
    if view.form == "label":
        return [LabelColumn(source, open_(side, "labels", np.int32, ())) for side in SIDES]
    if view.form == PROMPT:
        return [RecordColumn(open_(side, RECORDS, np.uint8, ())) for side in SIDES]
    return []
