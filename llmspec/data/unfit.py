"""Sources whose records are not what phases read, as far as their first record and the spec say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmspec.core.problems import Problem
from llmspec.data.prompts import unprompted
from llmspec.data.recognition import Found, unanswered, uncompared, unpaired, unrecognised
from llmspec.data.shots import unshown
from llmspec.data.weighing import unweighed
from llmspec.parts.phases import Phase
from llmspec.parts.sources import Source


def unfit_sources(
    phases: Iterable[tuple[str, Phase]], found: Mapping[str, Found], sources: Mapping[str, Source]
) -> list[Problem]:
    """Everything that is wrong with them, phase by phase."""
    spoken = {
        name: source.has_dialogues or bool(found[name].dialogue or found[name].asks) for name, source in sources.items()
    }
    return [
        problem
        for name, phase in phases
        for problem in (
            *unrecognised(name, phase, found),
            *unanswered(name, phase, found),
            *unpaired(name, phase, found, sources),
            *uncompared(name, phase, found, sources),
            *unweighed(name, phase, sources),
            *unshown(name, phase, sources),
            *unprompted(name, phase, spoken),
        )
    ]
