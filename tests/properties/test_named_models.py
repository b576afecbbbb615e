"""Models that phases name: every key that may hold one is known, and a phase's key follows what they are, wherever they
lie; the head that a phase has trained is the one that is asked."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from strategies_values import rewarded

from llmspec.compiler.keys import VALIDATING, phase_identity
from llmspec.core.units import Budget, Share
from llmspec.decoding.classifying import CLASSIFYING
from llmspec.decoding.numbers import PREDICTING
from llmspec.decoding.rewarding import JUDGING
from llmspec.decoding.tagging import TAGGING
from llmspec.parts import heads, phases, rewards
from llmspec.parts.others import ANY, NAMED, StartModel, covers, named_in
from llmspec.spec.relative import is_model
from llmspec.spec.shape import shape_of
from llmspec.training.other_models import with_value


def holding(part: type[BaseModel], within: tuple[type[BaseModel], ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a part, or one in it, may name a model, ANY in the place of names that a spec gives."""
    for name, info in part.model_fields.items():
        if StartModel in _types(info.annotation):
            yield (info.alias or name,)
        shape = shape_of(info)
        for step, inside in (((), shape), ((ANY,), shape.item)):
            for below in set((inside.parts if inside else {}).values()) - {*within, part, StartModel}:
                yield from ((info.alias or name, *step, *path) for path in holding(below, (*within, part)))


def _types(annotation: Any) -> Iterator[Any]:
    yield annotation
    for one in get_args(annotation):
        yield from _types(one)


def test_every_key_that_may_hold_a_model_is_known() -> None:
    """So that circles, names of no phase and relative paths are told wherever they stand."""
    found = {path for kind in phases.TABLE.values() for path in holding(kind)}
    assert found == {("from",), *NAMED}


def test_a_path_is_covered_by_its_keys_and_by_nothing_else() -> None:
    for keys in NAMED:
        path = tuple("mine" if key == ANY else key for key in keys)
        assert is_model(("phases", "p", *path)) and not is_model(("phases", "p", *path[:-1]))
        assert not is_model(("phases", "p", *path, "more")) and not is_model(("phases", "p", "another", *path[1:]))
        assert covers(keys, path[:-1]) and not covers(keys, (*path, "more"))
        written: Any = "model"
        for key in reversed(path):
            written = {key: written, "other": 1}
        assert list(named_in(written, keys)) == [(path, "model")]
        assert list(named_in({}, keys)) == list(named_in("text", keys)) == []


def made(kind: str, **more: Any) -> Any:
    part = phases.TABLE[kind]
    usual = {"mixture": {"facts": Share(100.0)}, "budget": Budget(5.0, "steps"), "from_": "start", **rewarded(part)}
    return part(**{**usual, **more})


MODELS = {
    "reward": ("grpo", {"reward": {"kind": "reward_model", "model": {"model": "a"}}}),
    "classifier": ("ppo", {"reward": {"kind": "classifier", "model": {"model": "a"}, "label": "good"}}),
    "sum": ("best_of_n", {"reward": {"kind": "sum", "of": {"x": {"kind": "reward_model", "model": {"model": "a"}}}}}),
    "reference": ("dpo", {"reference": StartModel(model="a")}),
    "from": ("sft", {"from_": StartModel(model="a")}),
    "body": ("ppo", {"objective": {"kind": "ppo", "value": {"body": {"model": "a"}}}}),
    "teacher": ("pretrain", {"objective": {"kind": "distillation", "teacher": {"model": "a"}}}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_known_is_the_same_wherever_it_lies(name: str) -> None:
    kind, more = MODELS[name]
    phase = made(kind, **more)
    ((path, model),) = [one for one in phase.models() if one[1].model == "a"]
    at = ("from_",) if path == ("from",) else path

    def placed(where: str, digest: str | None) -> Any:
        return phase_identity(with_value(phase, at, model.model_copy(update={"model": where, "digest": digest})))

    one, other = "1" * 64, "2" * 64
    assert placed("a", one) == placed("elsewhere/b", one) != placed("a", other)
    assert placed("a", None) != placed("b", None), "nothing is known of either"


@pytest.mark.parametrize("kind", phases.TABLE)
def test_how_it_validates_counts_where_that_chooses_the_weights(kind: str) -> None:
    given = {"evaluate_every": "7%", "generate_metrics": 3, "validation_prompts": 3}
    usual = made(kind)
    for key in (key for key in VALIDATING if key in type(usual).model_fields):
        identities = [
            phase_identity(made(kind, **chosen, **changed))
            for chosen in ({}, {"keep": {"best": 1}})
            for changed in ({}, {key: given[key]})
        ]
        assert identities[0] == identities[1] and identities[2] != identities[3], key


HEADS: dict[str, tuple[Any, dict[str, Any]]] = {
    "classes": (CLASSIFYING, {"classes": 2, "labels": ["a", "b"]}),
    "tokens": (TAGGING, {"classes": 2, "labels": ["a", "b"]}),
    "score": (PREDICTING, {}),
    "score judged": (JUDGING, {}),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("trained", ["first", "reward", "last"])
def test_the_head_that_was_trained_is_asked(name: str, trained: str) -> None:
    reading, settings = HEADS[name]
    kind = name.split()[0]
    head = heads.TABLE[kind].model_validate({"kind": kind, **settings})
    network: Any = SimpleNamespace(heads={"first": head, "reward": head, "last": head})
    network.model_copy = lambda update: SimpleNamespace(**{**vars(network), **update})
    assert reading.need(network, trained) == trained
    usual = "reward" if reading is JUDGING else "last"
    assert reading.need(network) == reading.need(network, "lm") == usual, "no such head was trained"


def test_every_reward_that_asks_a_model_says_which_sort() -> None:
    for kind, part in rewards.TABLE.items():
        if any("model" in path for path in holding(part)) and kind != "sum":
            assert part.asks and (kind == "reward_model") == (part.asks == ("reward_model",)), kind
