"""How near answers are to the ones that were wanted: exact match, chrF, ROUGE-L. All lie between 0 and 1, best last."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

ORDER, BETA = 6, 2.0
"""Longest n-grams of characters, and how much more recall counts than precision (Popović 2017, chrF2)."""
_WORD = re.compile(r"\w+")


def exact_match(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Share of the answers that are their targets, but for white space around and between words."""
    right = sum(a.split() == t.split() for a, t in zip(answers, targets, strict=True))
    return right / max(1, len(targets))


def chrf(answers: Sequence[str], targets: Sequence[str]) -> float:
    """chrF2 of all answers together (Popović 2015, W15-3049): precision and recall of n-grams of 1 … 6 characters, no
    white space among them, each over the whole set, then their means over the lengths that occur."""
    precision, recall, lengths = 0.0, 0.0, 0
    for n in range(1, ORDER + 1):
        found, said, wanted = 0, 0, 0
        for answer, target in zip(answers, targets, strict=True):
            ours, theirs = _ngrams(answer, n), _ngrams(target, n)
            found += (ours & theirs).total()
            said, wanted = said + ours.total(), wanted + theirs.total()
        if said and wanted:
            precision, recall, lengths = precision + found / said, recall + found / wanted, lengths + 1
    if not precision + recall:
        return 0.0
    precision, recall = precision / lengths, recall / lengths
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)


def _ngrams(text: str, n: int) -> Counter[str]:
    joined = "".join(text.split())
    return Counter(joined[i : i + n] for i in range(len(joined) - n + 1))


def rouge_l(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Mean F1 of the longest common subsequence of words (Lin 2004, W04-1013, section 3): words are letters and digits
    of any script, in small letters."""
    return sum(map(_rouge_l, answers, targets)) / max(1, len(targets))


def _rouge_l(answer: str, target: str) -> float:
    said, wanted = words(answer), words(target)
    common = _common(said, wanted)
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def words(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return _WORD.findall(text.lower())


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    best = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            diagonal, best[j] = best[j], diagonal + 1 if word == other else max(best[j], best[j - 1])
    return best[-1]
