"""Models that rewards ask, opened once: those of folders, and those that phases of the same spec have made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llmspec.compiler.linear_layers import may_stay_quantised
from llmspec.compiler.plan import ModelPlan, PhasePlan, Plan
from llmspec.core.hashing import digest
from llmspec.core.problems import LlmspecError, Problem
from llmspec.decoding.choosing import Chooser
from llmspec.decoding.prompts import prompt_tokens
from llmspec.decoding.reading import longest_read
from llmspec.decoding.rewarding import JUDGING, AnswerScorer
from llmspec.model.decoder import Decoder
from llmspec.model.others import Weights
from llmspec.parts.others import StartModel
from llmspec.parts.phases.base import CLASSIFIER, POLICY, REWARD_MODEL
from llmspec.parts.rewards.base import Open, Opened, Reward
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.tokenizers.base import Codec
from llmspec.training.context import RunContext

Choose = Callable[[Sequence[str], tuple[str, str]], Sequence[float]]
BEFORE = "\nReply: "
"""Between a question and the reply of a model that goes on with text."""
Made = Mapping[str, Callable[[], Opened]]
"""By phase: what opens the model that it has made."""


def opener(made: Made = MappingProxyType({}), base: str = "") -> Open:
    """f(model) -> the model that a reward asks, opened once; a name is a phase's, of those that have `made` one, or
    else a folder's. Relative folders start in `base`."""
    there = dict[str | StartModel, Opened]()

    def open_(named: str | StartModel) -> Opened:
        if named not in there:
            known = made.get(named) if isinstance(named, str) else None
            there[named] = known() if known is not None else _folder(named, base)
        return there[named]

    return open_


def _folder(named: str | StartModel, base: str) -> Opened:
    from llmspec.decoding.language_model import open_model
    from llmspec.formats.opening import stored_model
    from llmspec.formats.wheel_models import in_wheel

    start = StartModel(model=named) if isinstance(named, str) else named
    here = in_wheel(start, offline=False) if start.model is None else Path(base, Path(start.model).expanduser())
    judging = judging_phase(stored_model(here).plan())
    found = _asked(open_model(here, phase=judging))
    if judging is None:
        return found
    # What is chosen is asked of the model that the run is opened with, which is another one.
    speaker = cache(lambda: _chooses(open_model(here)))
    return found._replace(choose=lambda questions, replies: speaker()(questions, replies))


def of_run(path: Path, plan: Plan) -> Made:
    """The models that rewards may ask by the name of the phase of a run that has made them."""
    from llmspec.decoding.language_model import open_model

    def opened(name: str) -> Opened:
        return _asked(open_model(path, phase=name))

    return {p.name: partial(opened, p.name) for p in plan.phases if p.makes in (REWARD_MODEL, POLICY)}


def _asked(model: Any) -> Opened:
    """A LanguageModel as rewards ask it."""
    labels = tuple(model.labels) if model.tells_labels else ()
    return Opened(
        lambda texts: [{one.label: one.probability for one in f.labels} for f in model.classify_batch(texts)],
        labels,
        model.rewards if model.judges else None,
        digest(model.codec.to_json()),
        _chooses(model) if model.draws_text and model.plan.model.encoder is None else None,
        dialogue_read(model.plan.model),
    )


def dialogue_read(model: ModelPlan, named: str = "reward") -> int:
    """Tokens of a dialogue that a reward model reads, at most; of another model, those of its context."""
    head = JUDGING.found(model, named)
    return model.context if head is None else longest_read(model, head)


def _chooses(model: Any) -> Choose:
    """What asks a LanguageModel to choose. Raises LlmspecError where it draws no text."""
    return _chooser(model.drawing, model.codec, model.plan.chat_template, model.chat)


def _chooser(decoder: Decoder, codec: Codec, template: ChatTemplate, chat: bool) -> Choose:
    """The same of a decoder, whose model answers a user's turn, or goes on with text."""
    asked = partial(prompt_tokens, codec, template, chat=chat)
    return Chooser(decoder, codec, asked, "" if chat else BEFORE).choose


def judging_phase(plan: Plan) -> str | None:
    """The phase of a run that rewards ask, where it is not the one that the run is opened with."""
    found = [p for p in plan.phases if p.makes in (CLASSIFIER, REWARD_MODEL)]
    return found[-1].name if found and found[-1].makes == REWARD_MODEL else None


def judge_problems(
    judge: Reward, codec: Codec, base: str, most: int = 0, made: Mapping[str, int] = MappingProxyType({})
) -> Iterator[Problem]:
    """Why the models that a phase's reward asks cannot answer it, read texts by another tokenizer than the phase, or
    not the whole of its dialogues, of `most` tokens. Of those that phases of the same spec have `made` by then, it is
    known how much they read. Relative folders start in `base`."""
    own, paths = digest(codec.to_json()), dict[str | StartModel, tuple[str | int, ...]]()
    unlike, short = dict[str | StartModel, None](), dict[str | StartModel, int]()
    nothing = list[float]()
    planned = Opened(lambda texts: [], (), lambda answers: nothing, own, lambda questions, replies: nothing)
    stand_ins = {name: planned._replace(longest=made.get(name)) for _, name, _ in judge.phases()}
    open_ = opener({name: lambda name=name: stand_ins[name] for name in stand_ins}, base)  # type: ignore[misc]
    asked: list[tuple[tuple[str | int, ...], str | StartModel, tuple[str, ...]]] = [*judge.models(), *judge.phases()]
    for path, model, takes in asked:
        if REWARD_MODEL in takes:
            paths.setdefault(model, path)

    def compared(named: str | StartModel) -> Opened:
        found = open_(named)
        if named in paths and found.score is not None:
            if found.tokenizer != own:
                unlike[named] = None
            elif found.longest is not None and found.longest < most:
                short[named] = found.longest
        return found

    try:
        yield from judge.unfit(compared)
    except LlmspecError as error:
        yield from (Problem(p.message, (), p.hint, p.consequence) for p in error.problems)
    for named in unlike:
        said = named if isinstance(named, str) else named.said
        yield Problem(
            f"the reward model {said} has another tokenizer than this spec",
            paths[named],
            f"train it with this spec, or take its tokenizer: {{kind: huggingface, file: {said}/tokenizer.json}}",
            "it would read answers in other pieces than those that were drawn",
        )
    for named, longest in short.items():
        said = named if isinstance(named, str) else named.said
        yield Problem(
            f"prompts and answers have up to {most:,} tokens, and the reward model {said} reads {longest:,}",
            paths[named],
            f"let it read as much (its phase's `max_tokens`, or `model.context: {most}`), or take a lower `max_tokens` "
            "or shorter prompts here",
            "it would read the ends of long ones alone",
        )


def made_beside(context: RunContext, planned: PhasePlan, others: Weights) -> Made:
    """The reward models that phases before this one have made, by their names, as they stand beside it."""
    beside = {o.phase: (planned.others[o.role].model, others[o.role]) for o in planned.phase.others() if o.judges}

    def opened(name: str) -> Opened:
        model, weights = beside[name]
        phase, arrays, codec = context.plan.phase(name).phase, weights(), context.prepared.codec
        head = JUDGING.found(model, phase.objective.head)
        held, layouts = context.backend.hold({t.name: arrays[t.name] for t in model.tensors}, may_stay_quantised(model))
        template, score, choose = context.plan.chat_template, None, None
        if head is not None:
            score = AnswerScorer(model, head, context.backend, held, codec, layouts, template).rewards
        if model.generates and model.encoder is None:
            decoder = Decoder(model, context.backend, held, None, layouts)
            choose = _chooser(decoder, codec, template, phase.templated)
        return Opened(lambda texts: [], (), score, digest(codec.to_json()), choose)

    return {name: lambda name=name: opened(name) for name in beside if name}  # type: ignore[misc]
