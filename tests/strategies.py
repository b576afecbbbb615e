"""Specs for property tests valid by construction, over every entry of every table.

`specs()` draws plain data; `yaml_text` writes it down. Fields are drawn from their types and limits, so that a part
added to a table is drawn from the day it is there; only what hangs together (heads and width, shares of a mixture,
budget and text) is chosen by hand here. Shapes come from a small pool, so that builds stay cheap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tokenizer_files
from chat_templates import OWN
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from strategies_answers import ALIGNED, CONTEXT, LEARNING, answer_settings, answered_sources, leaving
from strategies_answers import BY_HAND as OF_ANSWERS
from strategies_course import courses
from strategies_fitting import both_sides, fit_to_stack, framed, masking, one_stack, with_sentinels
from strategies_labels import NAMED, SORTS, document_settings, labelled_records
from strategies_models import encoders, models
from strategies_sources import mixtures, other_sources
from strategies_values import Data, named_turns, parts, settings

from llmspec.parts import (
    objectives,
    optimizers,
    phases,
    schedules,
    tokenizers,
)
from llmspec.parts.objectives.base import LABELS, MASKED, NEXT, NUMBERS, TAGS, TOGETHER
from llmspec.parts.phases.base import POLICY, REWARD_MODEL, Phase
from llmspec.parts.tokenizers.special_tokens import EXTRAS, ROLES
from llmspec.spec.decoding import Decoding
from llmspec.spec.dump import to_yaml
from llmspec.spec.shape import fields_of

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "red", "hen", "run")
NAMES = st.sampled_from(["a", "b2", "wiki", "plays", "my-text", "v1.0", "Notes_2"])
CHAT_TEMPLATES = [{"kind": "role_tokens"}, {"kind": "jinja", "template": OWN}]
LEAKS = st.fixed_dictionaries({}, optional={"contamination": st.sampled_from(["drop", "refuse", "allow"])})


def yaml_text(data: Mapping[str, Any]) -> str:
    """Plain data as YAML, a key a line where it can be, so that a mutation has a line of its own."""
    return to_yaml(data)


# -- sections -------------------------------------------------------------------------------------------------------


VOCABS = {"bpe": [266, 270], "unigram": [266, 270], "wordpiece": [66, 70]}


@st.composite
def tokenizer_settings(draw: DrawFn) -> Data:
    kind = draw(st.sampled_from(list(tokenizers.TABLE)))
    if kind == "huggingface":
        return {"kind": kind, "file": tokenizer_files.kept()}
    out = draw(settings(tokenizers.TABLE[kind], skip=("vocab", "sentinels")))
    out["markers"] = draw(st.lists(st.sampled_from(["<|sum|>", "<|task-2|>"]), unique=True, max_size=2))
    out["special_tokens"] = draw(st.lists(st.sampled_from(list(EXTRAS)), unique=True, max_size=2))
    if "vocab" in fields_of(tokenizers.TABLE[kind]):
        # Specials, markers and all bytes fit; so few merges are learned from any of the texts below.
        out["vocab"] = draw(st.sampled_from(VOCABS.get(kind, [48, 64])))
    return out


def sentences(seed: int, count: int, length: int = 9) -> list[str]:
    """Made-up sentences, each different."""
    return [
        " ".join(WORDS[(seed + i * (j + 3) + j * j) % len(WORDS)] for j in range(length)) + f" {i}."
        for i in range(count)
    ]


@st.composite
def inline_sources(draw: DrawFn, paired: bool = False, labels: str = "", answers: bool = False) -> Data:
    """An inline source with some 2,500 characters, more than any phase of `specs()` reads four times; `paired`: of
    sources and targets; with `labels` (strategies_labels.NAMED) what is learned of each text stands beside it;
    with `answers`, several to each prompt, or one with what it is worth."""
    seed = draw(st.integers(0, 11))
    out: Data = {"kind": "inline"}
    if answers:
        words = sentences(seed, 200, 1)
        out |= draw(answered_sources(lambda n: words[n % len(words)]))
    elif labels:
        out |= {"records": labelled_records(sentences(seed, 60), labels), **NAMED[labels]}
    elif not paired and draw(st.booleans()):
        out["documents"] = sentences(seed, 60)
    else:
        out["records"] = [
            {"q": q, "a": a} for q, a in zip(sentences(seed, 60, 1), sentences(seed + 1, 60, 8), strict=True)
        ]
        shapes = {
            "text": st.just("{q} {a}"),
            "dialogue": st.sampled_from(
                [{"user": "{q}", "assistant": "{a}"}, [{"user": "{q}", "assistant": "{a}"}, {"system": "Go {q}"}]]
            ),
        }
        if paired:
            shapes = {"replace": st.just({".": "", "_": " "}), "text": st.just("{q} {a}")}
            out |= {"source": "{q}", "target": draw(st.sampled_from(["{a}", "So {a}"]))}
            shapes["cut_at"] = st.sampled_from([{"q": "|"}, {"a": ["|", "; "]}])
        out |= draw(st.fixed_dictionaries({}, optional=shapes))
    common: Data = {
        "license": st.sampled_from(["", "CC0", "no: such thing", "yes"]),
        "attribution": st.just("Zoë & “Co” #1"),
        "validation": st.sampled_from(["tail 10%", "hash 20%"]),
        "max_epochs": st.sampled_from([4, 5.0]),
        "max_dropped": st.sampled_from(["10%", "100%"]),
    }
    return out | draw(st.fixed_dictionaries({}, optional=common))


def asking(predicts: str, earlier: Sequence[str] = ()) -> SearchStrategy[Data]:
    """An objective that asks for the next token, or for masked ones; a teacher is one of the earlier phases."""
    fit = [part for part in objectives.TABLE.values() if part.predicts == predicts]
    alone = [part for part in fit if "teacher" not in fields_of(part)]
    taught = [
        st.builds(lambda own, teacher: {**own, "teacher": teacher}, settings(part, skip=("teacher",)), teachers)
        for part in fit
        if part not in alone and earlier
        for teachers in (st.sampled_from(list(earlier)),)
    ]
    return st.one_of(st.sampled_from(alone).flatmap(settings), *taught)


BY_HAND = (
    "from",
    "mixture",
    "budget",
    "micro_batch_size",
    "gradient_accumulation_steps",
    "batch_size_warmup",
    "sequence_length",
    "add_special_tokens",
    "prompts",
    "train_on",
    "adapter",
    "truncation",
    "generate_metrics",
    "labels",
    "multi_label",
    "class_weights",
    "max_tokens",
    "mean",
    "std",
)
"""Settings of phases that hang on others, and are drawn with these."""


@st.composite
def phase_settings(
    draw: DrawFn, names: list[str], earlier: list[str], predicts: str = NEXT, paired: bool = False, labels: str = ""
) -> Data:
    """A phase of a few steps on these sources, from one of the earlier phases or from nothing; of `paired` sources also
    one that reads pairs; `labels` of which sort the spec has, whose model is no encoder–decoder."""
    return draw(phase_of(draw(st.sampled_from(fitting(predicts, paired, labels))), names, earlier, paired, labels))


def fitting(predicts: str, paired: bool, labels: str) -> list[type[Phase]]:
    """Kinds of phases that teach this, of such sources."""
    fit = [part for part in phases.TABLE.values() if part.predicts == predicts and (paired or not part.pairs)]
    fit = [part for part in fit if not ((labels and part.cuts) or part.prompted)]  # which have rewards of their own
    return [part for part in fit if not (labels == "apart" and part.dialogues)]  # which would be too long for its rows


@st.composite
def phase_of(
    draw: DrawFn, part: type[Phase], names: list[str], earlier: list[str], paired: bool = False, labels: str = ""
) -> Data:
    """Settings of a phase of this kind."""
    predicts, answers = part.predicts, part in [phases.TABLE[kind] for kind in LEARNING]
    prompts = ["Once [MASK]", "[MASK][MASK]"] if predicts == MASKED else ["Once", "1e3"]
    if part.cuts == "spans":
        prompts = ["Once <extra_id_0>", "[MASK]"]
    out = draw(settings(part, skip=(*BY_HAND, *OF_ANSWERS) if answers else BY_HAND))
    if out.get("loss_reduction") == "sample":  # which needs to know whose tokens are whose
        out.pop("document_mask", None)
    out["mixture"] = draw(mixtures(names))
    epochs = st.sampled_from(list(out["mixture"])).map(lambda name: f"1 epochs of {name}")
    fixed = st.sampled_from(["4 steps", "6 steps", "256 tokens", "0.5k tokens", "2 MFLOPs", "3 minutes (4 steps)"])
    counted = st.sampled_from(["4 steps", "6 steps", "3 minutes (4 steps)"])
    out["budget"] = draw(counted if part.prompted else st.one_of(fixed, epochs))
    if earlier and draw(st.booleans()):
        out["from"] = draw(st.sampled_from(earlier))
    optional = {
        "micro_batch_size": st.integers(1, 2),
        "gradient_accumulation_steps": st.integers(1, 2),
        "optimizer": parts("optimizer"),
        "schedule": parts("schedule"),
        "objective": asking(predicts, earlier),
        "unfreeze": st.integers(1, 99).map(lambda share: {"layers.0.*": f"{share}%"}),
        "lr_multipliers": st.sampled_from([{"layers.*": 0.5}, {"layers.0.*": 2.0, "embed_tokens.*": 0.125}]),
        "prompts": st.just(prompts),
        **({"generate_metrics": st.sampled_from([0, 3])} if part.pairs else {}),
    }
    if "train_on" in fields_of(part):
        others = st.lists(st.sampled_from([role for role in ROLES if role != "assistant"]), unique=True)
        listed = others.map(lambda roles: ["assistant", *roles])
        optional["train_on"] = st.one_of(listed, listed.map(lambda roles: [*roles, "last_turn"]), st.just("last_turn"))
    out |= {"micro_batch_size": 1} | draw(st.fixed_dictionaries({}, optional=optional))
    if predicts in SORTS:
        out |= draw(document_settings(labels or SORTS[predicts][0], own_head="from" not in out))
    if part.makes == REWARD_MODEL:
        out.pop("prompts", None)
    grows = out.get("gradient_accumulation_steps", 1) > 1 and "minutes" not in out["budget"] and not part.prompted
    if grows and draw(st.booleans()):
        out["batch_size_warmup"] = draw(st.sampled_from(["25%", "100%"]))
    if "sequence_length" in fields_of(part) and "minutes" not in out["budget"] and draw(st.booleans()):
        # Every drawn context has such halves.
        lengths = {"start": st.sampled_from([2, 4]), "until": st.sampled_from(["30%", "75%", "100%"])}
        out["sequence_length"] = draw(st.fixed_dictionaries(lengths))
    elif "add_special_tokens" in fields_of(part) and draw(st.booleans()):
        out["add_special_tokens"] = draw(st.booleans())
    chosen = optimizers.TABLE[out.get("optimizer", {}).get("kind", "adamw")]
    if part.prompted:  # answers are drawn from the weights that steps train
        out.pop("ema", None)
        if chosen.averages:
            out.pop("optimizer")
            chosen = optimizers.TABLE["adamw"]
    if chosen.schedules:
        out["schedule"] = {**draw(settings(schedules.TABLE[chosen.schedules[0]]))}
    if chosen.averages:
        out.pop("ema", None)
    if "steps" not in out["budget"]:  # it may come to a single step, of which a warm-up in steps leaves nothing
        out.get("schedule", {}).pop("warmup", None)
    return out


def decodings() -> SearchStrategy[Data]:
    """`decoding:` with the settings of any filters."""
    extra = {
        "stop": st.lists(st.sampled_from(["<|user|>", "\n\n", "null", "end"]), unique=True, max_size=2),
        "max_tokens": st.integers(1, 8),
        "kv_cache": st.sampled_from(["f32", "f16"]),  # q8_0 rounds 32 numbers of a head together; these have fewer
    }
    chosen = settings(Decoding, skip=("order", "stop", "max_tokens", "kv_cache"))
    return st.builds(lambda a, b: a | b, chosen, st.fixed_dictionaries({}, optional=extra))


def models_for(predicts: str) -> SearchStrategy[Data]:
    """Networks for phases that teach to predict this."""
    if predicts in SORTS:
        return models().flatmap(lambda m: st.sampled_from([both_sides(m), one_stack(m)]))
    return models().map(both_sides) if predicts == MASKED else models()


def redrawn(table: str, predicts: str) -> SearchStrategy[Data]:
    """Another part of a table, for a phase that teaches to predict this."""
    return asking(predicts) if table == "objective" else parts(table)


@st.composite
def texts(
    draw: DrawFn, names: list[str], runnable: bool, paired: bool, labels: str, weighted: bool, answers: bool
) -> Data:
    """Sources by name; `weighted`: some of them weigh their records, which what draws its places does not."""
    inline = inline_sources(paired, labels, answers)
    drawn = inline if runnable or paired or labels or answers else st.one_of(inline, other_sources())
    out = {name: draw(drawn) for name in names}
    for found in out.values() if weighted else ():
        if "records" in found and draw(st.booleans()):
            found |= {"records": [{**r, "w": 1 + i % 3} for i, r in enumerate(found["records"])], "weight": "{w}"}
    return out


@st.composite
def alignments(draw: DrawFn, names: list[str]) -> Data:
    """Phases of which the first learns to write, and the others from answers."""
    stages: Data = {"write": draw(phase_of(phases.TABLE[draw(st.sampled_from(["pretrain", "sft"]))], names, []))}
    stages["write"].pop("sequence_length", None)
    judged = ["reward"] if draw(st.booleans()) else []
    kinds = draw(st.lists(st.sampled_from(LEARNING), min_size=1, max_size=2))
    for i, kind in enumerate([*judged, *kinds]):
        part = phases.TABLE[kind]
        stage = draw(phase_of(part, names, leaving(stages, POLICY)))
        stages[f"{kind}-{i}"] = {**stage, **draw(answer_settings(part, stages, stage))}
    return stages


@st.composite
def specs(draw: DrawFn, *, runnable: bool = True) -> Data:
    """A valid spec as plain data. `runnable`: all its text stands in it, so that it can be built and trained."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    predicts = draw(st.sampled_from([NEXT, NEXT, NEXT, MASKED, LABELS, TAGS, NUMBERS, TOGETHER, ALIGNED, ALIGNED]))
    answers = predicts == ALIGNED
    labels = draw(st.sampled_from(SORTS[predicts])) if predicts in SORTS else ""
    paired = not labels and not answers and draw(st.booleans())
    text = draw(texts(names, runnable, paired, labels, predicts in (NEXT, ALIGNED), answers))
    templates = draw(named_turns(text))
    stages: Data = {}
    order = draw(st.sampled_from([["pretrain"], ["pretrain", "chat"], ["p1", "p2", "p3"]]))
    before = order[:1] if labels and len(order) > 1 and draw(st.booleans()) else []  # a decoder learns to write first
    for stage in [] if answers else order:
        learns = NEXT if stage in before else predicts
        stages[stage] = draw(phase_settings(names, list(stages), learns, paired, labels))
    if answers:
        stages = draw(alignments(names))
    if "from" in (last := list(stages.values())[-1]) and draw(st.booleans()):  # no other phase starts from it
        last["adapter"] = draw(parts("adapter"))
        if not phases.TABLE[last["kind"]].drops:
            last["adapter"].pop("dropout", None)
        for apart in ("lr_multipliers", "unfreeze"):  # of tensors that are frozen then
            last.pop(apart, None)
    top = {
        "seed": st.integers(0, 99),
        "tokenizer": tokenizer_settings(),
        "chat_template": st.sampled_from(CHAT_TEMPLATES),
        "decoding": decodings(),
        "device": st.just("CPU"),
    }
    if predicts in (NEXT, ALIGNED) and all(stage["kind"] != "span_corruption" for stage in stages.values()):
        top["prompts"] = st.just(["Once", "1e3"])
    rest = draw(st.fixed_dictionaries({}, optional=top)) | templates
    if rest.get("tokenizer", {}).get("kind") == "huggingface" and (
        answers or any(p["kind"] == "sft" for p in stages.values())
    ):
        # It has no tokens for roles.
        rest["chat_template"] = CHAT_TEMPLATES[-1]
    model = one_stack(draw(models())) if before or answers else draw(models_for(predicts if labels else NEXT))
    if answers:
        model["context"] = CONTEXT
    if predicts == MASKED:
        model, rest["tokenizer"] = both_sides(model), masking(rest.get("tokenizer", {}), framed(stages))
    if any(stage["kind"] == "span_corruption" for stage in stages.values()):
        rest["tokenizer"] = with_sentinels(rest.get("tokenizer", {}))
        model.setdefault("encoder", draw(encoders()))
    for stage in stages.values():
        fit_to_stack(stage, "encoder" in model)
        stage |= draw(courses(stage, text))
        if "encoder" in model and stage["kind"] == "seq2seq":
            stage |= draw(
                st.fixed_dictionaries({}, optional={"truncation": st.sampled_from(["source", "target", "both"])})
            )
    return {
        "name": draw(st.sampled_from(["tiny", "gpt-0.1", "no", "1e3x"])),
        "model": model,
        "data": {"sources": text, **draw(LEAKS)},
        "phases": stages,
        **rest,
    }
