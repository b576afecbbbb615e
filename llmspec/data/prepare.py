"""From a plan to everything its phases read: texts, tokenizer, tokens, streams. Each is made once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmspec.compiler.budget import readable
from llmspec.core.disk import explained
from llmspec.core.folders import cache_dir
from llmspec.core.hashing import digest
from llmspec.core.problems import DataError, Problem
from llmspec.data.artifact_cache import Entry, within_cache
from llmspec.data.builder import DataBuilder
from llmspec.data.contamination import doubled, refusal
from llmspec.data.fetch import Fetch, Progress
from llmspec.data.losses import Loss, folded, loss, nothing_to_validate, too_many, unknown_letters
from llmspec.data.measuring import measured
from llmspec.data.mixture import weights_of
from llmspec.data.pair_form import PairForm
from llmspec.data.prompts import records_in
from llmspec.data.reading import SourceReading, each_source, fingerprints, read_all
from llmspec.data.recognition import recognise, views_of
from llmspec.data.tokens import TokenSet
from llmspec.data.unfit import unfit_sources
from llmspec.data.views import SourceView, content_keys
from llmspec.parts.phases import Phase
from llmspec.parts.sources.base import Attribution
from llmspec.parts.sources.notes import Notes
from llmspec.parts.tokenizers import Codec

if TYPE_CHECKING:
    from llmspec.compiler.plan import Decision, Measured, PhasePlan, Plan, SharePlan, SourcePlan
    from llmspec.data.compared import AnyAsking
    from llmspec.data.inputs import BatchInputs
    from llmspec.data.stream import PhaseStream
    from llmspec.data.validation import ValidationSet


def prepare(
    plan: Plan, *, offline: bool = False, progress: Progress | None = None, most: int | None = None
) -> PreparedData:
    """Read, split and tokenise what the plan's phases read; what was made before is only opened.

    `progress(message, done, total)` is told of what takes long. With `offline`, nothing is downloaded;
    with `most`, a source of more characters is refused where the cache does not have it.

    Raises:
        DataError: the problems of all sources at once, and of all phases.
    """
    doing = "the data were looked for"

    def report(message: str, done: int, total: int) -> None:
        nonlocal doing
        doing = message
        if progress:
            progress(message, done, total)

    try:
        return _prepare(plan, offline, report, most)
    except KeyboardInterrupt as stop:
        if not stop.args:
            stop.args = (f"stopped while {doing}: partial files are removed, and what is complete stays in the cache",)
        raise
    except OSError as error:
        place = "set LLMSPEC_CACHE to another folder" if within_cache(error) else ""
        raise DataError(explained(error, error.filename or cache_dir(), place)) from error


def _prepare(plan: Plan, offline: bool, report: Progress, most: int | None) -> PreparedData:
    fetch = Fetch(Path(plan.base), offline, report)
    used = {share for phase in plan.phases for share, part in phase.phase.mixture.items() if part.percent > 0}
    sources = {s.name: s.source for s in plan.sources if s.name in used}
    if missing := sorted(used - sources.keys()):
        raise DataError(f"no source is called {', '.join(missing)}", "write it under data.sources")
    noted: dict[str, Notes] = {}
    prints = fingerprints(sources, fetch, noted)
    try:
        found = each_source(sources, lambda name, source: recognise(source, fetch, prints[name]))
    except DataError:
        # Reading everything finds the problems of all sources at once, not of the first records alone.
        read_all(sources, (), fetch, plan.tokenizer.markers, report, plan.contamination)
        raise
    if wrong := unfit_sources([(p.name, p.phase) for p in plan.phases], found, sources):
        raise DataError(wrong)
    views = sorted({view for phase in plan.phases for view in views_of(phase.phase, sources, found)})
    keys = content_keys(sources, prints, plan.tokenizer.markers, plan.contamination)
    builder = DataBuilder(
        plan.tokenizer.at(plan.base),
        plan.chat_template,
        sources,
        views,
        prints,
        keys,
        weights_of(plan, sources),
        fetch,
        report,
        plan.contamination,
        found,
        most,
        PairForm(encoder=plan.model.encoder is not None),
        plan.seed,
    )
    codec = builder.codec()
    tokens = {view: builder.tokens(view, codec) for view in views}
    prepared = PreparedData(plan, codec, builder, tokens)
    prepared.not_found = noted
    prepared.check()
    return prepared


class PreparedData:
    """Everything the phases of a plan read, opened; nothing of it in memory but what is looked at."""

    def __init__(self, plan: Plan, codec: Codec, builder: DataBuilder, tokens: Mapping[SourceView, Entry]) -> None:
        self.codec = codec
        """The tokenizer, trained."""
        self.template = plan.chat_template
        self._plan, self._builder, self._tokens = plan, builder, tokens
        self._sources, self._keys = builder.sources, builder.keys
        self._phases: dict[str, Phase] = {p.name: readable(p.model, p.phase) for p in plan.phases}
        self._streams: dict[str, PhaseStream] = {}
        self.not_found: Mapping[str, Notes] = {}
        """By source: files and folders that its patterns pass over."""

    def stream(self, phase: str) -> PhaseStream:
        """The batches of a phase. Raises DataError where its sources are too short for it."""
        from llmspec.data.stream import PhaseStream

        if phase not in self._streams:
            part = self._phases[phase]
            views = self._views(phase)
            about = {view.source: self._tokens[view].about for view in views}
            self._streams[phase] = PhaseStream(
                phase,
                part,
                {view.source: self._open(view, "train") for view in views},
                max_epochs={name: source.max_epochs for name, source in self._sources.items()},
                seed=self._plan.seed,
                context=self._plan.model.context,
                end=self._end(part),
                content=self.fingerprint(phase),
                dropped={source: Notes.parse(found["train"]["dropped"]) for source, found in about.items()},
                contaminated={source: found["contaminated"] for source, found in about.items()},
                **self._rows(phase),
            )
        return self._streams[phase]

    def validation(self, phase: str) -> dict[str, ValidationSet]:
        """Validation sets of a phase's mixture, by source; sources without `validation:` have none."""
        from llmspec.data.validation import ValidationSet

        part, context = self._phases[phase], self._plan.model.context
        end, rows = self._end(part), self._rows(phase)
        return {
            view.source: ValidationSet(
                view.source,
                part,
                self._open(view, "validation"),
                context,
                end,
                Notes.parse(self._tokens[view].about["validation"]["dropped"]).counts,
                codec=self.codec,
                **rows,
            )
            for view in self._views(phase)
            if self._sources[view.source].validation
        }

    def asking(self, phase: str) -> AnyAsking | None:
        """What a phase asks of each document; None where it asks nothing of them."""
        from llmspec.data.asking import asking_of

        asks = self._phases[phase].objective.reads_whole  # else a phase need not be planned
        return asking_of(*self.asked(phase), self.codec.specials) if asks else None

    def asked(self, phase: str) -> tuple[PhasePlan, list[dict[str, Any]]]:
        """A phase, and what was noted of each source as it reads it."""
        return self._plan.phase(phase), [self._tokens[view].about for view in self._views(phase)]

    def _views(self, phase: str) -> list[SourceView]:
        return views_of(self._phases[phase], self._sources, self._builder.found)

    def _end(self, phase: Phase) -> int:
        """What fills rows, and stands between the documents of a phase that reads them one after another."""
        specials = self.codec.specials
        padded = phase.objective.reads_whole or phase.around(specials) is not None
        return specials.need("pad" if padded and specials.pad is not None else "eos")

    def inputs(self, phase: str) -> BatchInputs:
        """What makes the arrays of a phase's batches."""
        from llmspec.data.inputs import BatchInputs

        planned = self._plan.phase(phase)
        seed = (self._plan.seed, phase)
        return BatchInputs(planned.model, planned.phase, self.codec.specials, seed, self.codec, planned.others)

    @property
    def pair_form(self) -> PairForm:
        """What puts a question and its answer together in phases of pairs."""
        return self._builder.pairs

    def _rows(self, phase: str) -> dict[str, Any]:
        """How a phase's rows hold two texts, what is asked of each document, spans that are left out, or special tokens
        around text."""
        from llmspec.data.layout import pair_of
        from llmspec.data.spans import form_of

        model, specials = self._plan.model, self.codec.specials
        spans = form_of(phase, self._phases[phase], model, specials)
        around = self._phases[phase].around(specials)
        return {"pair": pair_of(model, specials), "asking": self.asking(phase), "spans": spans, "around": around}

    def fingerprint(self, phase: str) -> str:
        """Hash of the tokens that a phase reads: texts, their form, and the tokenizer."""
        views = self._views(phase)
        # A phase reads all that is no plain text in one form.
        template = next((found for view in views if (found := self._builder.template_of(view))), None)
        spoken = {} if template is None else {"chat template": template.identity()}
        texts = [[*view, self._keys[view]] for view in views]
        return digest({"tokenizer": self._codec_hash, "texts": texts, **spoken})

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the plan's phases, in order."""
        return tuple(self._phases)

    @property
    def contamination(self) -> str:
        """What happens to training documents that are also in validation."""
        return self._builder.contamination

    @property
    def contaminated(self) -> dict[str, int]:
        """Number of those, by source."""
        return {name: about["contaminated"] for name, about in self.about.items()}

    @property
    def about(self) -> dict[str, dict[str, Any]]:
        """What was noted of each source."""
        return {name: self._about(name) for name in self._sources}

    @property
    def losses(self) -> list[Loss]:
        """What each phase leaves out of each source."""
        return [found for name in self._phases for found in self._losses(name)]

    def _losses(self, phase: str) -> list[Loss]:
        trained, validated = self.stream(phase).dropped, self.validation(phase)
        return [
            loss(
                phase,
                view.source,
                self._tokens[view].about,
                self.contamination == "allow",
                trained[view.source],
                validated[view.source].dropped if view.source in validated else {},
            )
            for view in self._views(phase)
        ]

    def opened(self, phase: str, source: str) -> TokenSet:
        """The training tokens of a source as a phase reads it."""
        return self._open(next(view for view in self._views(phase) if view.source == source), "train")

    def records(self, phase: str, source: str, side: str) -> list[Mapping[str, Any]]:
        """Fields of the documents of a side, as a phase that answers prompts reads the source."""
        entry = next(self._tokens[view] for view in self._views(phase) if view.source == source)
        return records_in(entry.folder, side, entry.about[side]["documents"])

    def sides(self) -> dict[str, list[tuple[str, TokenSet, TokenSet]]]:
        """By form: (source, training tokens, validation tokens)."""
        found: dict[str, list[tuple[str, TokenSet, TokenSet]]] = {}
        for view in self._tokens:
            found.setdefault(view.form, []).append(
                (view.source, self._open(view, "train"), self._open(view, "validation"))
            )
        return found

    @property
    def contents(self) -> dict[str, str]:
        """By source: hash of its documents as they are, whatever the spec makes of them."""
        return {name: digest(found) for name, found in self._builder.prints.items()}

    @property
    def readings(self) -> Mapping[str, SourceReading]:
        """The texts themselves, by source: read again where prepare() only opened tokens."""
        return self._builder.readings

    @property
    def attributions(self) -> tuple[Attribution, ...]:
        """Licence and attribution of every source that is read."""
        return tuple(Attribution(name, source.license, source.attribution) for name, source in self._sources.items())

    @cached_property
    def measured(self) -> Measured:
        """What reading found, for the plan."""
        from llmspec.compiler.plan import Measured
        from llmspec.data.asking import found_labels, found_spreads

        texts = {name: self._about(name)["key"] for name in self._sources}
        return Measured(
            fingerprint=digest({"tokenizer": self._codec_hash, "texts": texts}),
            sources=tuple(self._measured_source(s) for s in self._plan.sources),
            phases={name: self._shares(name) for name in self._phases},
            decisions=tuple(dict.fromkeys(self._decisions())),
            fingerprints={name: self.fingerprint(name) for name in self._phases},
            labels=found_labels(self),
            spreads=found_spreads(self),
        )

    def check(self) -> None:
        """Open every stream and validation set; the problems of all phases in one DataError."""
        from llmspec.data.asking import asking_problems

        problems: list[Problem] = []
        if self._plan.contamination == "refuse":
            problems += [
                refusal(view.source, about["contaminated"], about["contaminated_examples"])
                for view, about in ((view, entry.about) for view, entry in self._tokens.items())
                if about["contaminated"]
            ]
        most = self._plan.tokenizer.most_unknown
        problems += [
            problem
            for name in self._sources
            for problem in unknown_letters(
                name, [entry.about for view, entry in self._tokens.items() if view.source == name], most
            )
        ]
        for name, phase in self._phases.items():
            views = self._views(name)
            problems += doubled(name, {view: self._tokens[view].about["content"] for view in views})
            if phase.reads and (wrong := asking_problems(name, *self.asked(name))):
                problems += wrong
                continue
            try:
                self.stream(name)
            except DataError as error:
                problems += error.problems
            else:
                problems += [
                    problem
                    for found in self._losses(name)
                    for problem in too_many(
                        found,
                        phase,
                        self._sources[found.source].max_dropped.fraction,
                        self.stream(name).needed(found.source),
                    )
                ]
            problems += [
                nothing_to_validate(name, phase, found) for found in self.validation(name).values() if not found.tokens
            ]
        if problems:
            raise DataError(folded(problems))

    @cached_property
    def _codec_hash(self) -> str:
        return digest(self._plan.tokenizer.codec_identity(self.codec))

    def _open(self, view: SourceView, side: str) -> TokenSet:
        entry = self._tokens[view]
        return TokenSet.load(entry.folder, side, self.codec.vocab, entry.about[side])

    def _about(self, name: str) -> dict[str, Any]:
        """Notes on a source as plain text, or in another form where no phase reads it as text."""
        view = min((view for view in self._tokens if view.source == name), key=lambda view: view.form != "plain")
        return {**self._tokens[view].about, "key": self._keys[view]}

    def _shares(self, phase: str) -> tuple[SharePlan, ...]:
        """What a phase reads of its sources, and what it leaves out."""
        lost = {
            found.source: {"dropped": found.dropped.counts, "validation_dropped": found.not_validated.counts}
            for found in self._losses(phase)
        }
        return tuple(share.model_copy(update=lost.get(share.source, {})) for share in self.stream(phase).planned())

    def _decisions(self) -> Iterator[Decision]:
        """How records were read whose sources do not say it."""
        from llmspec.compiler.plan import Decision

        for view in self._tokens:
            if (first := self._builder.found[view.source]).where:
                value, why = first.sentence(view.form)
                yield Decision(path=f"data.sources.{view.source}", value=value, why=why)

    def _measured_source(self, found: SourcePlan) -> SourcePlan:
        if found.name not in self._sources:
            return found
        spoken = any(view.source == found.name and view.read_as == "dialogue" for view in self._tokens)
        first = self._builder.found[found.name]
        return measured(found, self._about(found.name), (first.dialogue or first.preference) if spoken else "")
