"""What a phase asks of each document, from its settings, its head and the labels that were found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llmspec.core.problems import Problem
from llmspec.data.apart import PairAsking, repeated
from llmspec.data.compared import AnyAsking, ComparedAsking, Together
from llmspec.data.labels import LabelAsking, LabelSet, by_label, counted, label_notices, label_problems, weights_by
from llmspec.data.numbers import NumberAsking, number_notices, number_problems, spread
from llmspec.data.tags import TagAsking, stray_notices
from llmspec.data.turns import assistant_first
from llmspec.parts.objectives.base import LABELS, NUMBERS, TAGS
from llmspec.parts.phases.labelled import UNKNOWN_LABELS
from llmspec.parts.phases.turns import LAST_TURN

if TYPE_CHECKING:
    from llmspec.compiler.plan import PhasePlan
    from llmspec.data.stream import PhaseStream
    from llmspec.data.tokens import TokenSet
    from llmspec.parts.tokenizers.special_tokens import SpecialTokens

Abouts = Sequence[Mapping[str, Any]]
"""What was noted of each source that a phase reads."""


TOLD_BY = {"label": "document", "tags": "word"}
"""What a phase reads beside texts -> what of them has a label."""


class Prepared(Protocol):
    """What is asked of prepared data here."""

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the plan's phases."""

    def stream(self, phase: str) -> PhaseStream:
        """The batches of a phase."""

    def asked(self, phase: str) -> tuple[PhasePlan, list[dict[str, Any]]]:
        """A phase, and what was noted of each source as it reads it."""

    def opened(self, phase: str, source: str) -> TokenSet:
        """The training tokens of a source as a phase reads it."""


def asking_of(planned: PhasePlan, abouts: Abouts, specials: SpecialTokens) -> AnyAsking | None:
    """How a phase reads documents of which it asks something; None of any other phase."""
    phase, model = planned.phase, planned.model
    if not phase.objective.reads_whole:
        return None
    head: Any = model.heads[phase.objective.head]
    limits = (getattr(phase, "max_tokens", None), getattr(head, "max_tokens", None))
    around = (specials.before, specials.after)
    longest = min(n for n in (*limits, model.context) if n)
    truncation = getattr(phase, "truncation", "none") == "end"
    documents = phase.objective.places(model.context) or 1
    if phase.preferences or phase.thumbs:
        together: Together = "thumbs" if phase.thumbs else "lists" if phase.lists else "pairs"
        return ComparedAsking(together, longest, getattr(phase, "truncation", "none") == "prompt", documents)
    if phase.apart:
        return PairAsking(around, longest, truncation, documents)
    if phase.predicts == NUMBERS:
        told = spread_told(planned, abouts) or ((head.mean, head.std) if head.std else (0.0, 1.0))
        return NumberAsking(around, longest, truncation, documents, *told)
    labels, counts = labels_in(planned, abouts), label_counts(abouts, "train")
    if phase.predicts == TAGS:
        return TagAsking(around, longest, truncation, model.context, labels, weights_by(phase, labels, counts))
    return LabelAsking(
        around=around,
        longest=longest,
        truncation=truncation,
        documents=documents,
        labels=labels,
        multi=bool(getattr(head, "multi_label", False)),
        weights=weights_by(phase, labels, counts),
    )


def label_counts(abouts: Abouts, side: str) -> dict[str, int]:
    """How many documents of a side have each label, sorted by label."""
    return by_label(counted(about[side]) for about in abouts)


def labels_in(planned: PhasePlan, abouts: Abouts) -> tuple[str, ...]:
    """The labels of a phase in the order of its classes: those of the spec, of its head, or those that were found."""
    if given := getattr(planned.phase, "labels", None):
        return tuple(given)
    named = getattr(planned.model.heads[planned.phase.objective.head], "labels", None)
    if named is not None and tuple(named) != UNKNOWN_LABELS:
        return tuple(named)
    return tuple(label_counts(abouts, "train"))


def labels_told(planned: PhasePlan, abouts: Abouts) -> tuple[str, ...]:
    """Labels that the data had to tell, since neither spec nor head does; none where they do."""
    if planned.phase.predicts not in (LABELS, TAGS) or getattr(planned.phase, "labels", None):
        return ()
    named = getattr(planned.model.heads[planned.phase.objective.head], "labels", None)
    return labels_in(planned, abouts) if named is not None and tuple(named) == UNKNOWN_LABELS else ()


def found_labels(prepared: Prepared) -> dict[str, tuple[str, ...]]:
    """By phase: labels that the data had to tell."""
    asked = [name for name in prepared.phases if prepared.stream(name).phase.reads]
    return {name: labels for name in asked if (labels := labels_told(*prepared.asked(name)))}


def number_counts(abouts: Abouts, side: str) -> dict[LabelSet, int]:
    """How many documents of a side have each set of labels, over all sources."""
    found = dict[LabelSet, int]()
    for about in abouts:
        for labels, count in counted(about[side]).items():
            found[labels] = found.get(labels, 0) + count
    return found


def spread_told(planned: PhasePlan, abouts: Abouts) -> tuple[float, float] | None:
    """Mean and standard deviation of a phase's numbers that the data have to tell, since neither spec nor head does;
    None where they do."""
    head: Any = planned.model.heads[planned.phase.objective.head]
    if planned.phase.predicts != NUMBERS or head.std is not None:
        return None
    return spread(number_counts(abouts, "train"))


def found_spreads(prepared: Prepared) -> dict[str, tuple[float, float]]:
    """By phase: what the data had to tell of its numbers."""
    asked = [name for name in prepared.phases if prepared.stream(name).phase.reads]
    return {name: found for name in asked if (found := spread_told(*prepared.asked(name)))}


def asking_problems(name: str, planned: PhasePlan, abouts: Abouts) -> list[Problem]:
    """What is wrong with what a phase asks."""
    if planned.phase.reads not in TOLD_BY:
        return []
    if planned.phase.predicts == NUMBERS:
        open_ = getattr(planned.model.heads[planned.phase.objective.head], "std", None) is None
        return [p.at("phases", name) for p in number_problems(open_, number_counts(abouts, "train"))]
    labels = labels_in(planned, abouts)
    if not labels:  # nothing is read at all, and why is said of the source
        return []
    head = planned.model.heads[planned.phase.objective.head]
    listed = getattr(planned.phase, "labels", None)
    if listed and tuple(getattr(head, "labels", None) or ()) == UNKNOWN_LABELS != tuple(listed):
        why = Problem(
            "the phase that it starts from takes the labels that it finds in the data, and this one lists its own",
            ("labels",),
            "list the same `labels:` there, or leave them out here",
            "nobody would know before the first phase whether both mean the same classes",
        )
        return [why.at("phases", name)]
    classes = len(labels) if labels_told(planned, abouts) else getattr(head, "classes", len(labels))
    of = TOLD_BY[planned.phase.reads]
    wrong = label_problems(planned.phase, labels, classes, label_counts(abouts, "train"), of)
    return [problem.at("phases", name) for problem in wrong]


def asking_notices(prepared: Prepared) -> Iterator[str]:
    """What a person should know of what phases ask of documents."""
    for name in prepared.phases:
        stream = prepared.stream(name)
        if stream.asking is None:
            yield from answers_to_nobody(prepared, stream)
            continue
        yield from repetition(prepared, stream)
        yield from one_sided(prepared, stream)
        planned, abouts = prepared.asked(name)
        if stream.phase.predicts == NUMBERS:
            yield from number_notices(name, spread_told(planned, abouts), number_counts(abouts, "train"))
        elif of := TOLD_BY.get(stream.phase.reads):
            train, held = (label_counts(abouts, side) for side in ("train", "validation"))
            listed = {label: train.get(label, 0) for label in labels_in(planned, abouts)}
            yield from label_notices(name, not labels_told(planned, abouts), listed, held, of)
            yield from stray_notices(abouts)
        for source, count in stream.cut.items():
            if count and isinstance(stream.asking, ComparedAsking):
                yield f"{name} cuts off the beginning of {count:,} prompts of {source}: their answers need the room"
            elif count:
                yield f"{name} reads the beginnings alone of {count:,} documents of {source}"


def answers_to_nobody(prepared: Prepared, stream: PhaseStream) -> Iterator[str]:
    """Dialogues whose first turn is the assistant's, where that is learned."""
    learned = getattr(stream.phase, "train_on", ())
    if not stream.phase.dialogues or stream.phase.prompted or "assistant" not in learned or LAST_TURN in learned:
        return
    for source in stream.sources:
        if count := assistant_first(prepared.opened(stream.name, source)):
            yield (
                f"{count:,} training dialogues of {source} start with the assistant: {stream.name} learns their first "
                "turns, which answer nobody"
            )


def repetition(prepared: Prepared, stream: PhaseStream) -> Iterator[str]:
    """Texts that several pairs of a source have: they are no negatives of each other."""
    if not isinstance(stream.asking, PairAsking):
        return
    for source in stream.sources:
        data = prepared.opened(stream.name, source)
        for side, count in repeated(data, stream.asking).items():
            if count:
                yield (
                    f"{count:,} of the {len(data.lengths):,} training pairs of {source} have a {side} that an earlier "
                    f"one has, too: in {stream.name}, pairs with an equal text are no negatives of each other"
                )


def one_sided(prepared: Prepared, stream: PhaseStream) -> Iterator[str]:
    """Answers judged by themselves of which none is good, or none is bad."""
    if not (isinstance(stream.asking, ComparedAsking) and stream.asking.together == "thumbs"):
        return
    found = [stream.asking.entries(prepared.opened(stream.name, source)).targets for source in stream.sources]
    good, all_ = sum(int(targets.sum()) for targets in found), sum(targets.size for targets in found)
    if all_ and good in (0, all_):
        side, other = ("good", "bad") if good else ("bad", "good")
        yield (
            f"all {all_:,} answers that {stream.name} reads are {side}, and none is {other}: it learns from one side "
            "alone, and nothing holds the other"
        )
