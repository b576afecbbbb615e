"""What the model of each phase says to the prompts of the run, once the phase has ended: kept in its folder."""

from __future__ import annotations

from typing import Any

from llmspec.compiler.linear_layers import readable
from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.core.hashing import digest
from llmspec.decoding.generate import Generation, generate
from llmspec.model.decoder import Decoder
from llmspec.runs.run import PhaseFolder
from llmspec.training.artifacts import Artifact
from llmspec.training.callbacks import only_noted
from llmspec.training.context import RunContext
from llmspec.training.prompts import written


def keep(bench: RunContext, place: PhaseFolder, made: Artifact) -> None:
    """Lets what a phase has made answer the prompts of the run, where its folder has no answers to them yet. One that
    fails is told, and ends nothing."""
    plan, phase = bench.plan, made.phase
    if not (plan.prompts and phase.draws):
        return
    with only_noted(bench.watcher, f"{phase.name}: the prompts of the run could not be answered"):
        asked = identity(plan, phase)
        if place.answers.get("asked") == asked:
            return
        said = [
            {"prompt": prompt, "text": one.text, "finish_reason": one.finish_reason}
            for prompt, one in zip(plan.prompts, drawn(bench, made), strict=True)
        ]
        place.keep_answers({"asked": asked, "chat": phase.phase.dialogues, "answers": said})


def identity(plan: Plan, phase: PhasePlan) -> str:
    """Hash of everything that the answers follow from."""
    how = plan.decoding.model_dump(mode="json")
    return digest({"phase": phase.key, "prompts": list(plan.prompts), "decoding": how, "seed": plan.seed})


def drawn(bench: RunContext, made: Artifact) -> list[Generation]:
    """An answer to each prompt, side by side, by the run's decoding settings and its seed: what `llmspec sample` says
    to that prompt alone."""
    plan, model, codec = bench.plan.of(made.phase.name), made.phase.model, bench.prepared.codec
    arrays: dict[str, Any] = made.weights()
    weights, layouts = bench.backend.hold({t.name: arrays[t.name] for t in model.tensors}, readable(model))
    decoder = Decoder(model, bench.backend, weights, codec.specials.start_of(model.decoder_start), layouts)
    part, seed = made.phase.phase, plan.decoding.seed
    prompts = [written(plan, part, codec, text).tokens for text in plan.prompts]
    return generate(
        decoder, codec, prompts, plan.decoding, seed=plan.seed if seed is None else seed, chat=part.dialogues
    )
