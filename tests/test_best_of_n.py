"""Phases of kind best_of_n: which answers are kept, and how they count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import phase_kinds
import pytest
import tiny

from llmspec.core.problems import SpecError
from llmspec.parts.phases.best_of_n import BestOfN as Phase
from llmspec.spec import load_spec
from llmspec.training.rollouts import Episodes
from llmspec.training.tasks.best_of_n import BestOfN


def made(rewards: list[float], lengths: list[int]) -> Episodes:
    given, n = np.array(rewards, np.float32), np.array(lengths, np.int32)
    return Episodes(((), ()), np.zeros((len(n), 5), np.int32), n, n < 5, {}, given, {})  # type: ignore[arg-type]


def task(threshold: float | None) -> Any:
    found: Any = object.__new__(BestOfN)
    settings = {"threshold": threshold, "reward_scale": 1.0, "reward_clip": None, "missing_end_penalty": None}
    found.phase = Phase.model_construct(**settings)
    return found


def test_the_best_of_each_prompt_is_kept_where_it_is_good_enough() -> None:
    given = made([0.1, 0.9, 0.9, 0.3, 0.2, 0.1], [1, 2, 3, 4, 5, 1])
    assert task(None).chosen(given).tolist() == [1, 3]  # the first of those that are alike
    assert task(None).counted(given).tolist() == [False, True, False, True, False, False]
    assert task(0.5).counted(given).tolist() == [False, True, False, False, False, False]
    assert not task(1.0).counted(given).any()


def test_each_token_that_is_kept_counts_the_same() -> None:
    given = made([0.1, 0.9, 0.9, 0.3, 0.2, 0.1], [1, 2, 3, 4, 5, 1])
    which = np.array([3, 1])
    assert task(None).weights(given, which) == pytest.approx([1 / 6, 1 / 6])
    assert task(0.5).weights(given, which) == pytest.approx([1 / 2, 1 / 2])  # the other one counts nothing


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("answers_per_prompt=1", "`answers_per_prompt:` is 2 or more"),
        ("kl_coefficient=0.1", "leave out `reference:`"),
        ("mini_batches=3", "2 answers of a rollout cannot be divided into 3"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, sets: str, said: str) -> None:
    text, own = phase_kinds.spec_of("best_of_n")
    with pytest.raises(SpecError, match=said):
        load_spec(tiny.write(tmp_path, text), [*own, f"phases.phase.{sets}"])
