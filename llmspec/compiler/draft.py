"""The frozen value that compiler passes hand on, and what a pass is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llmspec.compiler.plan import Decision, Measured, ModelPlan, OtherPlan, PhasePlan
from llmspec.core.problems import Problem
from llmspec.parts.base import Default, Dims
from llmspec.spec.check import Sections
from llmspec.spec.schema import Spec


@dataclass(frozen=True)
class Draft:
    """What is known so far. A pass whose needs are missing (their section was broken) is skipped."""

    sections: Sections
    measured: Measured | None = None
    dims: Dims | None = None
    device: str | None = None
    network: ModelPlan | None = None
    order: tuple[str, ...] = ()
    planned: tuple[PhasePlan, ...] = ()
    opened: Mapping[str, Mapping[str, OtherPlan]] = field(default_factory=dict)
    """By phase and role: models that stand beside, which were there already and have been opened."""
    decisions: tuple[Decision, ...] = ()
    base: str = "."
    """Folder in which relative paths start."""
    problems: tuple[Problem, ...] = field(default=())

    def having(self, *needs: str) -> bool:
        """Whether every named section (model, tokenizer, device, phases, decoding) or result of a pass is sound."""
        s = self.sections
        known = {
            "any model": s.model or s.rough_model,
            "model": s.model,
            "tokenizer": s.tokenizer,
            "device": s.device,
            "phases": s.phases,
            "decoding": s.decoding,
        }
        return all(known[n] if n in known else getattr(self, n) for n in needs)

    def decided(self, path: str, defaults: dict[str, Default]) -> tuple[Decision, ...]:
        """The decisions so far with these added."""
        new = (
            # As JSON has it, so that a plan is read back equal.
            Decision(
                path=f"{path}.{key}" if path else key,
                value=list(d.value) if isinstance(d.value, tuple) else d.value,
                why=d.why,
            )
            for key, d in defaults.items()
        )
        return (*self.decisions, *new)

    def with_problems(self, problems: Any) -> Draft:
        return replace(self, problems=(*self.problems, *problems))


@dataclass(frozen=True)
class Pass:
    """A named pure step of the compiler: what it needs, and Draft -> Draft."""

    name: str
    needs: tuple[str, ...]
    run: Callable[[Draft], Draft]


def open_keys(part: Any, defaults: dict[str, Default]) -> dict[str, Default]:
    """Of a part's defaults, those of keys that the spec left open."""
    return {key: d for key, d in defaults.items() if getattr(part, key) is None}


def closed(part: Any, defaults: dict[str, Default]) -> Any:
    """The part with its open keys filled."""
    return part.model_copy(update={key: d.value for key, d in open_keys(part, defaults).items()})


def sections_of(spec: Spec) -> Sections:
    """A sound spec as sections."""
    return Sections(
        name=spec.name,
        seed=spec.seed,
        device=spec.device,
        precision=spec.precision,
        beam=spec.beam,
        memory_limit=spec.memory_limit,
        model=spec.model,
        tokenizer=spec.tokenizer,
        chat_template=spec.chat_template,
        sources=dict(spec.data.sources),
        phases=dict(spec.phases),
        decoding=spec.decoding,
        contamination=spec.data.contamination,
        spec=spec,
    )
