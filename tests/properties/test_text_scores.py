"""Exact match, chrF and ROUGE-L against plain readings of their papers."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspec.core.text_scores import BETA, ORDER, chrf, exact_match, rouge_l

texts = st.text("ab ä.", max_size=8)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=4)


def counted(text: str, n: int) -> dict[str, int]:
    joined = "".join(c for c in text if c != " ")
    found: dict[str, int] = {}
    for i in range(len(joined) - n + 1):
        found[joined[i : i + n]] = found.get(joined[i : i + n], 0) + 1
    return found


@given(pairs)
def test_chrf_is_the_f_score_of_mean_precision_and_recall(said: list[tuple[str, str]]) -> None:
    precisions, recalls = [], []
    for n in range(1, ORDER + 1):
        both = [(counted(a, n), counted(t, n)) for a, t in said]
        common = sum(min(k, t.get(g, 0)) for a, t in both for g, k in a.items())
        of_answers, of_targets = (sum(sum(one[side].values()) for one in both) for side in (0, 1))
        if of_answers and of_targets:
            precisions.append(common / of_answers)
            recalls.append(common / of_targets)
    p, r = (sum(x) / len(x) if x else 0.0 for x in (precisions, recalls))
    wanted = (1 + BETA**2) * p * r / (BETA**2 * p + r) if p + r else 0.0
    assert chrf(*map(list, zip(*said, strict=True))) == pytest.approx(wanted)


@given(pairs)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(said: list[tuple[str, str]]) -> None:
    def f1(answer: str, target: str) -> float:
        a, b = (text.replace(".", " ").split() for text in (answer, target))

        @cache
        def common(i: int, j: int) -> int:
            if i == len(a) or j == len(b):
                return 0
            if a[i] == b[j]:
                return 1 + common(i + 1, j + 1)
            return max(common(i + 1, j), common(i, j + 1))

        lcs = common(0, 0)
        return 2 * (lcs / len(a)) * (lcs / len(b)) / (lcs / len(a) + lcs / len(b)) if lcs else 0.0

    answers, targets = map(list, zip(*said, strict=True))
    assert rouge_l(answers, targets) == pytest.approx(sum(map(f1, answers, targets)) / len(said))


@given(pairs)
def test_what_is_equal_scores_1_and_nothing_scores_0(said: list[tuple[str, str]]) -> None:
    targets = [target for _, target in said]
    assert exact_match(targets, targets) == 1
    if all(any(c.isalpha() for c in target) for target in targets):
        assert chrf(targets, targets) == pytest.approx(1) and rouge_l(targets, targets) == pytest.approx(1)
    assert chrf([""] * len(said), targets) == rouge_l([""] * len(said), targets) == 0
    answers = [answer for answer, _ in said]
    for score in (exact_match, chrf, rouge_l):
        assert 0 <= score(answers, targets) <= 1 + 1e-12


def test_known_values() -> None:
    """Words in another order: Lin 2004, section 3.1; the characters of a word that misses one."""
    assert rouge_l(["police kill the gunman"], ["police killed the gunman"]) == pytest.approx(3 / 4)
    assert rouge_l(["the gunman kill police"], ["police killed the gunman"]) == pytest.approx(2 / 4)
    assert chrf(["abc"], ["abcd"]) == pytest.approx(5 * 1 * r / (4 + r) if (r := (3 / 4 + 2 / 3 + 1 / 2) / 3) else 0)
    assert exact_match(["a  b ", "a"], ["a b", "b"]) == 0.5
