"""Phases that learn from answers, compared, judged or drawn, for specs by construction: their records and settings.

Sorts of records: `pairs` of a better and a worse answer, `lists` with scores, and answers with `thumbs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from strategies_values import Data, settings

from llmspec.parts import phases, rewards
from llmspec.parts.objectives.base import REWARDED, VALUED
from llmspec.parts.objectives.ppo import PPO
from llmspec.parts.objectives.value_function import ValueFunction
from llmspec.parts.phases import Phase
from llmspec.parts.phases.base import POLICY, REWARD_MODEL
from llmspec.parts.phases.ppo import AdaptiveKL

ALIGNED = "answers"
"""What the phases of such a spec teach."""
CONTEXT = 64
"""Tokens that hold two drawn answers with their prompts, written in bytes."""
BY_HAND = (
    "reward",
    "reference",
    "prompts_per_rollout",
    "answers_per_prompt",
    "mini_batches",
    "max_tokens",
    "kl_coefficient",
    "kl_ceiling",
    "adaptive_kl",
    "document_mask",
)
"""Settings of such phases that hang on others, and are drawn with these."""
LEARNING = [kind for kind, part in phases.TABLE.items() if part.preferences or part.thumbs or part.prompted]
"""Kinds of phases that learn from answers."""


# -- records -----------------------------------------------------------------------------------------------------------
def record(i: int, texts: Callable[[int], str]) -> Data:
    """The i-th record, with fields for every sort; two after another ask the same."""
    asked, best, worse, worst = (texts(n * 7 + i // 2) for n in range(4))
    return {
        "q": asked,
        "turns": [{"role": "user", "content": asked}],
        "a": best if i % 2 else f"{best} {best}",
        "b": worse,
        "c": worst,
        "m": i % 3 + 0.5,
        "l": [best, worse, worst],
        "s": [i % 2 + 1, 0, 3],
        "t": [0.5, 0.25, i % 3],
        "g": "fresh" if i % 2 else "rotten",
    }


COMPARED: dict[str, list[Data]] = {
    "pairs": [
        {"chosen": "{a}", "rejected": "{b}"},
        {"chosen": "{a}", "rejected": ["{b}", "so {c}"], "margin": "{m}"},
        {"chosen": "{a}", "rejected_from": "other_records"},
    ],
    "lists": [
        {"answers": "l", "scores": "s"},
        {"answers": "l", "scores": {"s": 2.0, "t": -0.5}},
        {"answers": "a", "scores": {"m": 1.0}, "group_by": "q"},
    ],
    "thumbs": [
        {"completion": "{a}", "good": "{g}", "good_is": "fresh"},
        {"completion": "{a}", "good": "{g}", "good_is": ["fresh"], "bad_is": "rotten"},
    ],
}
"""Sort -> what a source says of its records."""
WRITTEN = {
    "pairs": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "lists": {"prompt": "q", "answers": "l", "scores": "s"},
    "thumbs": {"prompt": "q", "completion": "a", "label": "good"},
}
"""Sort -> names of fields by which it is recognised, and what stands in them."""


@st.composite
def answered_sources(draw: DrawFn, texts: Callable[[int], str]) -> Data:
    """What a source has of its own: records of any sort, and what they are, unless their names tell."""
    sort = draw(st.sampled_from(list(COMPARED)))
    records = [record(i, texts) for i in range(40)]
    if draw(st.integers(0, 3)) == 0:
        said = [r | {"good": r["g"] == "fresh"} for r in records]
        return {"records": [{name: r[field] for name, field in WRITTEN[sort].items()} for r in said]}
    asked = draw(st.sampled_from([{"prompt": "{q}"}, {"prompt": "{q}", "text": "{q} {a}"}, {"messages": "turns"}]))
    return {"records": records, **asked, **draw(st.sampled_from(COMPARED[sort]))}


# -- rewards -----------------------------------------------------------------------------------------------------------
OF_TEXT: dict[str, Data] = {
    "arithmetic": {"expression": st.sampled_from(["1+1", "{q}", None])},
    "language": {"language": st.just("de")},
    "regex": {"pattern": st.sampled_from(["a", "(?s)^th.*"])},
    "exact_match": {"reference": st.sampled_from(["{answer}", "so {q}"])},
    "similarity": {"reference": st.sampled_from(["{answer}", "{q}"])},
    "words": {"include": st.just(["cat", "the mat"]), "exclude": st.just(["no"])},
    "valid_json": {"schema": st.sampled_from([None, {"type": "object"}])},
    "length": {"least": st.just(2), "most": st.sampled_from([None, 5])},
}
"""Kind of reward -> its settings that its fields do not give."""
ASKED = ("sum", "reward_model", "classifier", "principles")
"""Rewards of others, and of models; what principles ask is longer than a drawn context."""


@st.composite
def rewarding(draw: DrawFn, judges: Sequence[str] = (), within: bool = False) -> Data:
    """A reward; it may ask the model of one of these phases, or be a sum, unless it stands `within` one."""
    kinds = [kind for kind in rewards.TABLE if kind not in ASKED]
    kind = draw(st.sampled_from([*kinds, *(["reward_model"] * 4 if judges else []), *([] if within else ["sum"] * 2)]))
    if kind == "sum":
        names = draw(st.lists(st.sampled_from(["short", "right", "a b"]), min_size=1, max_size=2, unique=True))
        return {"kind": kind, "of": {name: draw(rewarding(judges, within=True)) for name in names}}
    if kind == "reward_model":
        return {"kind": kind, "model": draw(st.sampled_from(list(judges)))}
    own = OF_TEXT.get(kind, {})
    drawn = draw(settings(rewards.TABLE[kind], skip=("weight", *own)))
    drawn |= {key: draw(strategy) for key, strategy in own.items()}
    optional = {"weight": st.sampled_from([0.5, -2.0])} if within else {}
    return drawn | draw(st.fixed_dictionaries({}, optional=optional))


# -- phases ------------------------------------------------------------------------------------------------------------
def leaving(stages: Data, makes: str) -> list[str]:
    """Phases of those before that leave such an artifact."""
    return [name for name, stage in stages.items() if phases.TABLE[stage["kind"]].makes == makes]


def adapted(stages: Data, name: str) -> bool:
    """Whether what a phase leaves has an adapter beside weights that stay."""
    while name in stages:
        if "adapter" in stages[name]:
            return True
        name = stages[name].get("from", "")
    return False


@st.composite
def answer_settings(draw: DrawFn, part: type[Phase], stages: Data, drawn: Data) -> Data:
    """Settings of a phase that learns from answers, beside those that were drawn: it starts from one of the phases
    before it, and may name others."""
    policies = leaving(stages, POLICY)
    out: Data = {"from": draw(st.sampled_from(policies))}
    if part.makes == REWARD_MODEL and draw(st.booleans()):
        out["from"] = draw(st.sampled_from(list(stages)))
    if part.prompted:
        judges = leaving(stages, REWARD_MODEL)
        bodies = [name for name in (*policies, *judges) if not adapted(stages, name)]
        return out | draw(drawing(part, policies, judges, bodies))
    out["micro_batch_size"] = draw(st.integers(2, 3))
    optional = {"max_tokens": st.sampled_from([CONTEXT // 2, CONTEXT]), "truncation": st.just("prompt")}
    out |= draw(st.fixed_dictionaries({}, optional=optional))
    objective = drawn.get("objective", {})
    compares = objective.get("kind", drawn["kind"]) in ("dpo", "kto") and not objective.get("reference_free")
    if compares and draw(st.booleans()):
        out["reference"] = draw(st.sampled_from(policies))
    return out


@st.composite
def drawing(
    draw: DrawFn, part: type[Phase], policies: Sequence[str], judges: Sequence[str], bodies: Sequence[str]
) -> Data:
    """Settings of a phase that draws answers, a row each at least in its steps; a critic is a copy of one of the
    `bodies`."""
    fewest = 1 if "adaptive_kl" in part.model_fields else 2
    divided = {"prompts_per_rollout": st.sampled_from([2, 4]), "answers_per_prompt": st.integers(fewest, 3)}
    out: Data = draw(st.fixed_dictionaries({**divided, "mini_batches": st.integers(1, 2)}))
    out["micro_batch_size"] = out["prompts_per_rollout"] * out["answers_per_prompt"] // out["mini_batches"]
    out["max_tokens"] = draw(st.integers(1, 4))
    reward = draw(rewarding(judges))
    out["reward"] = reward["model"] if reward["kind"] == "reward_model" and draw(st.booleans()) else reward
    if part.predicts not in (REWARDED, VALUED):  # it learns as SFT does
        return out
    held: Data = {"kl_coefficient": st.sampled_from([0.0, 0.125]), "kl_ceiling": st.sampled_from([None, 6.0])}
    out |= draw(st.fixed_dictionaries({}, optional={**held, "reference": st.sampled_from(list(policies))}))
    if "adaptive_kl" in part.model_fields and out.get("kl_coefficient", 1) and draw(st.booleans()):
        out["adaptive_kl"] = draw(settings(AdaptiveKL))
        own = {"body": st.sampled_from(list(bodies)), "lr_multiplier": st.sampled_from([0.5, 4.0])} if bodies else {}
        value = draw(settings(ValueFunction, skip=("body", "lr_multiplier")))
        value |= draw(st.fixed_dictionaries(own)) if draw(st.booleans()) else {}
        out["objective"] = {**draw(settings(PPO)), "value": value}
    return out


# -- mistakes ----------------------------------------------------------------------------------------------------------
def wrong_phase(kind: str, **own: object) -> Data:
    """Settings of a phase of four steps on the first source, one of them wrong."""
    reward: Data = {"reward": {"kind": "ended"}} if phases.TABLE[kind].prompted else {}
    return {"kind": kind, "mixture": {"<source>": "100%"}, "budget": "4 steps", **reward, **own}


def wrong_source(**own: object) -> Data:
    """A source of a record whose answers are said to be compared wrongly."""
    return {"kind": "inline", "records": [{"q": "a", "a": "b", "l": ["c"], "s": [1]}], "prompt": "{q}", **own}


MISTAKEN: dict[str, list[tuple[Data, str]]] = {
    "answers_that_do_not_divide": [
        (wrong_phase(kind, mini_batches=7), "mini_batches") for kind in ("grpo", "ppo", "best_of_n")
    ],
    "tokens_for_what_is_drawn": [
        (wrong_phase(kind, budget=budget), "budget") for kind in ("grpo", "ppo") for budget in ("9k tokens", "2 PFLOPs")
    ],
    "a_group_of_one": [
        (wrong_phase(kind, answers_per_prompt=1), "answers_per_prompt") for kind in ("grpo", "best_of_n")
    ],
    "a_reference_for_nothing": [
        (wrong_phase("best_of_n", **{key: value}), key) for key, value in (("kl_coefficient", 0.5), ("kl_ceiling", 6.0))
    ],
    "a_reward_that_is_none": [
        (wrong_phase("grpo", reward={"kind": "lenght"}), "reward.kind"),
        (wrong_phase("ppo", reward={"kind": "words"}), "reward"),
        (wrong_phase("grpo", reward={"kind": "regex", "pattern": "("}), "reward.pattern"),
        (wrong_phase("best_of_n", reward={"kind": "length", "least": 5, "most": 2}), "reward.least"),
        (wrong_phase("ppo", reward={"kind": "words", "include": ["no"], "exclude": ["a", "No"]}), "reward.exclude"),
    ],
    "rows_whose_answers_see_each_other": [
        (wrong_phase(kind, document_mask=False), "document_mask") for kind in ("dpo", "kto", "orpo", "reward", "grpo")
    ],
    "a_key_of_another_loss": [
        (wrong_phase("dpo", objective={"loss": "hinge", "label_smoothing": 0.25}), "objective.label_smoothing"),
        (wrong_phase("dpo", objective={"loss": "ipo", "target_margin": 0.5}), "objective.target_margin"),
        (wrong_phase("dpo", objective={"loss": "robust"}), "objective.loss"),
    ],
    "answers_half_said": [
        (wrong_source(chosen="{a}"), "chosen"),
        (wrong_source(chosen="{a}", rejected="no", rejected_from="other_records"), "rejected"),
        (wrong_source(answers="l"), "answers"),
        (wrong_source(answers="l", scores={"s": 0.0}), "scores"),
        (wrong_source(completion="{a}"), "completion"),
        (wrong_source(completion="{a}", good_is="x"), "completion"),
        (wrong_source(completion="{a}", good="{q}", bad_is="x"), "bad_is"),
        (wrong_source(good="{q}"), "good"),
    ],
    "nothing_to_compare": [
        (wrong_source(chosen="{a}", rejected="{a}"), "rejected"),
        (wrong_source(chosen="{a}", rejected=["not {a}", " {a} "]), "rejected"),
        (wrong_source(chosen="{a}", rejected=["not {a}", "not {a}"]), "rejected"),
        (wrong_source(answers="l", scores="l"), "scores"),
        (wrong_source(completion="{a}", good="{a}"), "good"),
    ],
    "criteria_without_weights": [
        (wrong_source(answers="l", scores=scores), "scores") for scores in (["s"], ["s", "t"], {"s": None, "t": None})
    ],
}
"""Name -> (a phase, or a source, with one mistake; its key that the problem names, '' for the whole)."""
COMPILED: dict[str, list[tuple[Data, str]]] = {
    "a_coefficient_that_stays_0": [
        (wrong_phase("ppo", kl_coefficient=0, adaptive_kl={"target": 1}), "kl_coefficient"),
    ],
    "a_weight_beside_nothing": [
        (wrong_phase(kind, reward={"kind": "length", "weight": -2.0}), "reward.weight") for kind in ("grpo", "ppo")
    ],
    "answers_that_an_average_would_draw": [
        *((wrong_phase(kind, ema=0.99), "ema") for kind in ("grpo", "ppo", "best_of_n")),
        *(
            (wrong_phase(kind, optimizer={"kind": "schedule_free_adamw", "lr": 1e-3}), "optimizer.kind")
            for kind in ("grpo", "ppo", "best_of_n")
        ),
    ],
    "answers_without_room_for_a_prompt": [
        (wrong_phase(kind, max_tokens=1 << 20), "max_tokens") for kind in ("grpo", "ppo", "best_of_n")
    ],
    "patterns_of_nothing": [
        (wrong_phase("pretrain", **{key: {"zzz": value}}), f"{key}.zzz")
        for key, value in (("lr_multipliers", 0.5), ("unfreeze", "20%"))
    ],
    "nothing_to_train": [(wrong_phase("pretrain", freeze=["*"]), "freeze")],
    "an_adapter_of_nothing": [(wrong_phase("pretrain", adapter={"kind": "lora"}), "adapter")],
    "a_metric_that_nobody_computes": [
        (wrong_phase("pretrain", early_stopping={"metric": "recal", "patience": 2}), "early_stopping.metric"),
        (wrong_phase("pretrain", keep={"best": 1, "metric": "recal"}), "keep.metric"),
    ],
    "nothing_to_start_from": [
        *((wrong_phase(kind), "kind") for kind in ("grpo", "ppo", "best_of_n")),
        *((wrong_phase(kind), "") for kind in ("dpo", "kto")),
    ],
    "a_judge_that_is_not_there": [(wrong_phase(kind, reward="juge"), "reward") for kind in ("grpo", "ppo")],
    "another_kinds_objective": [
        (wrong_phase("grpo", objective={"kind": "ppo"}), "objective"),
        (wrong_phase("ppo", objective={"kind": "grpo"}), "objective"),
        (wrong_phase("dpo", objective={"kind": "kto"}), "objective"),
        (wrong_phase("kto", objective={"kind": "orpo"}), "objective"),
    ],
}
"""The same of mistakes that the compiler sees, not the reader of the spec."""
