"""What is wrong with the learning rates of single tensors, and with when they begin to train."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from llmspec.compiler.plan import ModelPlan
from llmspec.compiler.updates import Updates
from llmspec.core.float32 import lost
from llmspec.core.problems import Problem
from llmspec.parts.phases import Phase

NEAREST = 3
"""Names that a pattern of no tensor is answered with, at most."""


def nearest_names(pattern: str, names: Sequence[str]) -> str:
    """A hint for a pattern that no name matches."""
    alike = list(dict.fromkeys(re.sub(r"\d+", "*", name) for name in names))
    near = get_close_matches(re.sub(r"\d+|\[.*?\]", "*", pattern), alike, NEAREST, 0.4) or alike[:NEAREST]
    return f"names that come near: {', '.join(near)}; `*` stands for anything, `[0-3]` for one of these digits"


def update_problems(model: ModelPlan, phase: Phase) -> Iterator[Problem]:
    """What is wrong with `lr_multipliers`, `layerwise_lr_decay` and `unfreeze` for the tensors that a phase trains."""
    names, trained = [t.name for t in model.tensors], [t.name for t in model.trained]
    for key, patterns in (("lr_multipliers", phase.lr_multipliers), ("unfreeze", phase.unfreeze)):
        for pattern in patterns:
            if any(fnmatchcase(name, pattern) for name in trained):
                continue
            there = any(fnmatchcase(name, pattern) for name in names)
            yield Problem(
                f"no tensor that this phase trains matches `{pattern}`" + ": all that do are frozen" * there,
                (key, pattern),
                nearest_names(pattern, trained),
                "it would change nothing",
            )
    for pattern, share in phase.unfreeze.items():
        if not 0 < share.percent < 100:
            yield Problem(
                f"what begins to train after {share} of a phase "
                + ("never does" if share.percent else "is not frozen"),
                ("unfreeze", pattern),
                "a share between 0% and 100%; `freeze:` for tensors that never train",
                "it would change nothing" if not share.percent else "the tensors would stay as they are",
            )
    yield from decay_problems(model, phase)
    updates = Updates(model, phase)
    groups = {name: updates.group(name) for name in trained}
    if phase.unfreeze and min(group.start for group in groups.values()) > 0:
        yield Problem(
            "every tensor waits for its turn, and none trains from the first step on",
            ("unfreeze",),
            "patterns that leave some out, such as the head's or those of the last layers",
            "the first steps would change nothing",
        )
    for name, group in groups.items():
        if not lost(phase.optimizer.lr) and (what := lost(phase.optimizer.lr * group.multiplier)):
            yield Problem(
                f"the learning rate of {name}, {phase.optimizer.lr:g} times {group.multiplier:.3g}, {what}",
                ("lr_multipliers",) if phase.lr_multipliers else ("layerwise_lr_decay",),
                "factors between 0.001 and 1000",
                "it would not move, or be infinite after one step",
            )
            return


def decay_problems(model: ModelPlan, phase: Phase) -> Iterator[Problem]:
    """What is wrong with the patterns of tensors that never decay."""
    optimizer, trained = phase.optimizer, [t.name for t in model.trained]
    decayed = [t.name for t in model.trained if optimizer.decays(t.role)]
    for at, pattern in enumerate(optimizer.no_decay):
        if any(fnmatchcase(name, pattern) for name in decayed):
            continue
        there = any(fnmatchcase(name, pattern) for name in trained)
        yield Problem(
            f"no tensor that this phase trains matches `{pattern}`"
            if not there
            else f"what matches `{pattern}` does not decay: norms and biases never do"
            if decayed
            else "nothing decays: weight_decay is 0",
            ("optimizer", "no_decay", at),
            "leave it out" if there else nearest_names(pattern, decayed or trained),
            "it would change nothing",
        )
