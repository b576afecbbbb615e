"""How often a phase's model answers better than another one, by a reward: wins, ties, losses, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmspec.explain.report import Report
from llmspec.explain.two_models import Asked, Pair, answers_to
from llmspec.parts.rewards.base import Answered, Reward, more_than_asked
from llmspec.parts.rewards.base import Open as OpenReward
from llmspec.training.rollouts import judged

Z95 = 1.959963984540054
"""The quantile of the standard normal distribution at 97.5%."""
EXAMPLES = 3
"""Prompts that are shown where each of the two is better by most."""


@dataclass(frozen=True)
class PartWins:
    """One reward, or a part of a sum, over all prompts."""

    name: str
    mean: float
    other_mean: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Example:
    """A prompt with both answers and what they are worth."""

    prompt: str
    text: str
    other_text: str
    score: float
    other_score: float


@dataclass(frozen=True)
class WinReport(Report):
    """Two models held against each other."""

    about: ClassVar[str] = "wins"
    name: str
    phase: str
    against: str
    reward: str
    prompts: int
    origin: str
    """Where the prompts are from."""
    seed: int
    wins: int
    ties: int
    losses: int
    different: int
    """Prompts that differ: under one seed, the same prompt has the same answer again."""
    low: float
    high: float
    """The 95% interval of the win rate, by prompts that differ."""
    mean: float
    other_mean: float
    spread: float
    """Standard deviation of the other model's rewards."""
    parts: tuple[PartWins, ...]
    examples: tuple[Example, ...]

    @property
    def rate(self) -> float:
        """Wins, and half of the ties, by prompts."""
        return (self.wins + self.ties / 2) / self.prompts

    def as_data(self) -> dict[str, Any]:
        return {**super().as_data(), "rate": self.rate}


def explain_wins(
    pair: Pair,
    asked: Sequence[Asked],
    records: Sequence[Mapping[str, Any]],
    origin: str,
    reward: Reward,
    open_: OpenReward,
    settings: Any,
    seed: int,
) -> WinReport:
    """Both models answer every prompt, by the same settings and seed, and a reward scores the answers."""
    answers = [answers_to(model, asked, pair.model, settings, seed) for model in (pair.model, pair.other)]
    said = [
        [
            Answered(one.text, given.text, given.ended, record, more_than_asked(one.turns))
            for one, given, record in zip(asked, found, records, strict=True)
        ]
        for found in answers
    ]
    parts, whole = zip(*(judged(reward, found, open_, ("--by",)) for found in said), strict=True)
    tallies = {name: tally(name, parts[0][name], parts[1][name]) for name in parts[0]} if len(parts[0]) > 1 else {}
    total, (scores, others) = tally(reward.name, *whole), whole
    different = len({tuple(one.tokens) for one in asked})
    low, high = wilson((total.wins + total.ties / 2) / len(asked) * different, different)
    gaps = sorted(range(len(asked)), key=lambda i: others[i] - scores[i])
    shown = dict.fromkeys([i for i in gaps[:EXAMPLES] if scores[i] > others[i]])
    shown |= dict.fromkeys([i for i in gaps[-EXAMPLES:] if scores[i] < others[i]])
    return WinReport(
        name=pair.model.plan.name,
        phase=pair.model.phase,
        against=pair.against,
        reward=reward.name,
        prompts=len(asked),
        origin=origin,
        seed=seed,
        wins=total.wins,
        ties=total.ties,
        losses=total.losses,
        different=different,
        low=low,
        high=high,
        mean=total.mean,
        other_mean=total.other_mean,
        spread=deviation(others),
        parts=tuple(tallies.values()),
        examples=tuple(Example(asked[i].text, said[0][i].text, said[1][i].text, scores[i], others[i]) for i in shown),
    )


def tally(name: str, scores: Sequence[float], others: Sequence[float]) -> PartWins:
    """Answers to the same prompts, one against one."""
    pairs = list(zip(scores, others, strict=True))
    wins, losses = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    n = len(pairs)
    return PartWins(name, sum(scores) / n, sum(others) / n, wins, n - wins - losses, losses)


def deviation(scores: Sequence[float]) -> float:
    """Standard deviation of a sample."""
    mean = sum(scores) / len(scores)
    return math.sqrt(sum((x - mean) ** 2 for x in scores) / (len(scores) - 1)) if len(scores) > 1 else 0.0


def wilson(successes: float, n: int, z: float = Z95) -> tuple[float, float]:
    """The score interval of a share of n (Wilson 1927). Half a success for a tie makes it wider than it need be, since
    a tie varies less than a coin that decides it."""
    share, spread = successes / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))
