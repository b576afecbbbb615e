"""Values of keys that a key's type does not give, for laws that change every key."""

from __future__ import annotations

from typing import Any

from strategies_values import TABLES

from llmspec.compiler.plan import TensorPlan
from llmspec.core.units import Budget, Share
from llmspec.parts.base import Init
from llmspec.parts.others import StartModel
from llmspec.parts.phases.lengths import SequenceLength
from llmspec.parts.rewards import TABLE as REWARDS
from llmspec.parts.sources import Validation

BY_HAND: dict[str, tuple[Any, ...]] = {
    "from_": (None,),
    "mixture": ({"facts": Share(50.0), "docs": Share(50.0)},),
    "budget": (Budget(9.0, "steps"), Budget(9.0, "tokens"), Budget(3.0, "epochs", "facts"), Budget(9.0, "FLOPs")),
    "prompts": (("never said",),),
    "freeze": (("layers.*",),),
    "no_decay": (("layers.*",), ("embed_tokens.*",)),
    "batch_size_warmup": (Share(30.0), Share(40.0)),
    "sequence_length": (
        SequenceLength(start=4, until=Share(30.0)),
        SequenceLength(start=8, until=Share(30.0)),
        SequenceLength(start=8, until=Share(40.0)),
    ),
    "targets": (("q_proj",), ("q_proj", "v_proj")),
    "teacher": ("another",),
    "body": ("another", StartModel(model="runs/another")),
    "reference": ("another", StartModel(model="runs/another")),
    "reward": (REWARDS["length"](least=3), REWARDS["length"](least=4)),
    "unfreeze": ({"layers.*": Share(30.0)}, {"layers.*": Share(40.0)}),
    "lr_multipliers": ({"layers.*": 0.5}, {"layers.*": 0.25}),
    "train_on": (("user",), ("assistant", "user"), ("assistant", "last_turn")),
    "tensors": ((), (TensorPlan(name="w", shape=(2,), role="head", init=Init()),)),
    "init": tuple(kind() for kind in TABLES["init"].values()),
    "text": ("{a}",),
    "weight": ("{q}", "{a}"),
    "template": ("continue",),
    "template_fields": ({"text": "{q}"},),
    "labels": (("a", "b"), ("b", "a")),
    "replace": ({"a": "b"}, {"a": "c", "b": ""}),
    "cut_at": ({"a": "|"}, {"a": ("|", ";")}),
    "columns": (("a", "b"), ("b", "a")),
    "tag_names": (("a", "b"), ("b", "a")),
    "dialogue": ({"user": "{a}"}, {"assistant": "{q}", "user": "{a}"}),
    "messages": ("turns",),
    "license": ("MIT",),
    "attribution": ("somebody",),
    "path": ("b.txt", ("a.txt", "b.txt")),
    "encoding": ("cp1252",),
    "written": (("another",),),
    "records": (({"q": "1", "a": "3"},),),
    "package": ("other-text",),
    "version": ("2.0",),
    "sha256": ("1" * 64,),
    "files": ("*.json", ("a", "b")),
    "markers": (("<|sum|>",),),
    "ends": ((), ("</s>",)),
    "ids": ({}, {"a": 1}),
    "special_tokens": (("mask",), ("pad", "mask")),
    "validation": (None, Validation("tail", "30%"), Validation("hash", "10%")),
}
"""Values of fields that the field's type does not give."""
