"""What the model of each phase says to the prompts of the run, once the phase has ended: kept in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmspec.compiler.linear_layers import readable
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.hashing import digest
from llmspec.decoding.generate import Generation, generate
from llmspec.decoding.sampler import DRAWS
from llmspec.formats.bases import folder_of, model_in
from llmspec.model.decoder import Decoder
from llmspec.parts.others import StartModel
from llmspec.runs.run import PhaseFolder
from llmspec.training.artifacts import Artifact
from llmspec.training.callbacks import only_noted
from llmspec.training.context import RunContext
from llmspec.training.prompts import written


def keep(bench: RunContext, place: PhaseFolder, made: Artifact) -> None:
    """Lets what a phase has made answer the prompts of the run, where its folder has no answers to them yet; and the
    model that it started from, where no phase has made that. One that fails is told, and ends nothing."""
    plan, phase = bench.plan, made.phase
    if not (plan.prompts and phase.draws):
        return
    with only_noted(bench.watcher, f"{phase.name}: the prompts of the run could not be answered"):
        asked = identity(plan, phase)
        if place.answers.get("asked") == asked:
            return
        found = {"asked": asked, "chat": phase.phase.templated, "answers": rows(plan, drawn(bench, made))}
        first = phase.phase.from_
        if isinstance(first, StartModel):
            found |= {"start": {"name": first.said, "answers": rows(plan, of_start(bench, phase, first))}}
        place.keep_answers(found)


def rows(plan: Plan, said: Sequence[Generation]) -> list[dict[str, Any]]:
    """The answers to the prompts, as they are kept."""
    return [
        {"prompt": prompt, "text": one.text, "finish_reason": one.finish_reason}
        for prompt, one in zip(plan.prompts, said, strict=True)
    ]


def identity(plan: Plan, phase: PhasePlan) -> str:
    """Hash of everything that the answers follow from."""
    how, asked = plan.decoding.model_dump(mode="json"), {"prompts": list(plan.prompts), "chat": phase.phase.templated}
    return digest({"phase": phase.key, **asked, "decoding": how, "seed": plan.seed, "draws": DRAWS})


def drawn(bench: RunContext, made: Artifact) -> list[Generation]:
    """An answer to each prompt, side by side, by the run's decoding settings and its seed: what `llmspec sample` says
    to that prompt alone."""
    model, codec = made.phase.model, bench.prepared.codec
    arrays: dict[str, Any] = made.weights()
    weights, layouts = bench.backend.hold({t.name: arrays[t.name] for t in model.tensors}, readable(model))
    start = codec.specials.start_of(model.decoder_start)
    return by(Decoder(model, bench.backend, weights, start, layouts), bench, made.phase)


def of_start(bench: RunContext, phase: PhasePlan, first: StartModel) -> list[Generation]:
    """The same of the model that a phase has started from; it reads the prompts as the phase's model does."""
    from llmspec.decoding.language_model import open_model

    folder = folder_of(bench.plan, first)
    return by(open_model(folder.path, phase=model_in(folder, folder.plan())[0]).drawing, bench, phase)


def by(decoder: Decoder, bench: RunContext, phase: PhasePlan) -> list[Generation]:
    """What a decoder says to the prompts, as a phase's model reads them."""
    plan, codec, part = bench.plan.of(phase.name), bench.prepared.codec, phase.phase
    prompts = [written(plan, part, codec, text).tokens for text in plan.prompts]
    seed = plan.seed if plan.decoding.seed is None else plan.decoding.seed
    return generate(decoder, codec, prompts, plan.decoding, seed=seed, chat=part.templated)
