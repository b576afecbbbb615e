"""What tokens were worth: GAE against sums written out one by one, its laws, whitening, KL estimates, coefficients."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspec.training import advantages as ours

SHARES = st.sampled_from([0.0, 0.3, 0.95, 1.0])
Answers = list[tuple[int, int, int]]
"""(row, first place, end) of each."""


class Drawn:
    """Rows with answers between places that do not count, and numbers of each place."""

    def __init__(self, seed: int, rows: int, length: int) -> None:
        dice = np.random.default_rng(seed)
        self.mask, self.answers = np.zeros((rows, length), np.float32), Answers()
        for row in range(rows):
            place = int(dice.integers(0, 3))
            while place < length:
                end = min(length, place + int(dice.integers(1, 6)))
                self.mask[row, place:end] = 1
                self.answers.append((row, place, end))
                place = end + int(dice.integers(1, 4))
        self.rewards, self.values, self.noise = dice.standard_normal((3, rows, length))
        self.scores = dice.standard_normal(len(self.answers))


drawn = st.builds(Drawn, st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 14))


def one_by_one(case: Drawn, gamma: float, lam: float) -> np.ndarray:
    """Equation 16 as the sum that it is: A_t = Σ_l (γλ)^l δ_{t+l}."""
    found = np.zeros(case.mask.shape)
    for row, first, end in case.answers:
        r, v = case.rewards[row, first:end], [*case.values[row, first:end], 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(end - first)]
        for t in range(end - first):
            found[row, first + t] = sum((gamma * lam) ** n * d for n, d in enumerate(delta[t:]))
    return found


@given(drawn, SHARES, SHARES)
def test_advantages_are_the_sums_of_the_formula(case: Drawn, gamma: float, lam: float) -> None:
    found = ours.gae(case.rewards, case.values, case.mask, gamma, lam)
    np.testing.assert_allclose(found.advantages, one_by_one(case, gamma, lam), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.returns, found.advantages + case.values * case.mask, rtol=1e-12, atol=1e-12)


@given(drawn, SHARES)
def test_at_its_ends_lambda_gives_monte_carlo_and_one_step(case: Drawn, gamma: float) -> None:
    whole = ours.gae(case.rewards, case.values, case.mask, gamma, 1.0).returns
    step = ours.gae(case.rewards, case.values, case.mask, gamma, 0.0).returns
    for row, first, end in case.answers:
        for t in range(first, end):
            paid = sum(gamma ** (n - t) * case.rewards[row, n] for n in range(t, end))
            assert whole[row, t] == pytest.approx(paid, rel=1e-12, abs=1e-12), "with λ = 1 no value has a say"
            follows = case.values[row, t + 1] if t + 1 < end else 0.0
            assert step[row, t] == pytest.approx(case.rewards[row, t] + gamma * follows, rel=1e-12, abs=1e-12)


@given(drawn, SHARES, SHARES)
def test_right_values_leave_nothing_to_gain(case: Drawn, gamma: float, lam: float) -> None:
    right = ours.gae(case.rewards, case.values, case.mask, gamma, 1.0).returns
    again = ours.gae(case.rewards, right, case.mask, gamma, lam)
    np.testing.assert_allclose(again.advantages, 0, atol=1e-11)
    assert ours.explained_variance(right, right, case.mask) in (0.0, 1.0)


@given(drawn, SHARES, SHARES)
def test_places_that_do_not_count_have_no_say(case: Drawn, gamma: float, lam: float) -> None:
    other = np.where(case.mask > 0, 0.0, 100 * case.noise)
    other[case.mask == 0] = np.where(case.noise[case.mask == 0] > 1, np.nan, other[case.mask == 0])
    plain = ours.gae(case.rewards, case.values, case.mask, gamma, lam)
    noisy = ours.gae(case.rewards + other, case.values + other, case.mask, gamma, lam)
    assert (plain.advantages == noisy.advantages).all() and (plain.returns == noisy.returns).all()
    assert not plain.advantages[case.mask == 0].any() and not plain.returns[case.mask == 0].any()
    for shift in (True, False):
        white = ours.whitened(case.values, case.mask, shift)
        assert (white == ours.whitened(case.values + other, case.mask, shift)).all()
        assert not white[case.mask == 0].any()
    for estimator in ("k1", "k2", "k3"):
        kl = ours.kl_estimates(case.values, case.rewards, case.mask, estimator)  # type: ignore[arg-type]
        assert (kl == ours.kl_estimates(case.values + other, case.rewards, case.mask, estimator)).all()  # type: ignore[arg-type]


@given(drawn, SHARES, SHARES)
def test_answers_are_worth_the_same_alone(case: Drawn, gamma: float, lam: float) -> None:
    """A row of several answers is as several rows, and what follows a place is all that counts for it."""
    together = ours.gae(case.rewards, case.values, case.mask, gamma, lam).advantages
    for row, first, end in case.answers:
        cut = slice(first, end)
        alone = ours.gae(case.rewards[[row], cut], case.values[[row], cut], np.ones((1, end - first)), gamma, lam)
        np.testing.assert_allclose(alone.advantages[0], together[row, cut], rtol=1e-12, atol=1e-12)
        half = slice((first + end) // 2, end)
        rest = ours.gae(case.rewards[[row], half], case.values[[row], half], case.mask[[row], half], gamma, lam)
        np.testing.assert_allclose(rest.advantages[0], together[row, half], rtol=1e-12, atol=1e-12)


@given(drawn, st.floats(0, 2))
def test_scores_come_with_the_last_token(case: Drawn, coefficient: float) -> None:
    found = ours.token_rewards(case.scores, case.noise, case.mask, coefficient)
    expected = np.zeros(case.mask.shape)
    for score, (row, first, end) in zip(case.scores, case.answers, strict=True):
        expected[row, first:end] = -coefficient * case.noise[row, first:end]
        expected[row, end - 1] += score
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="scores of"):
        ours.token_rewards([*case.scores, 0.0], case.noise, case.mask, coefficient)


@given(drawn)
def test_whitened_numbers_have_mean_0_and_variance_1(case: Drawn) -> None:
    kept = case.values[case.mask > 0]
    white = ours.whitened(case.values, case.mask)[case.mask > 0]
    if len(kept) < 2:
        assert not white.any() and np.isfinite(ours.whitened(case.values, case.mask, False)).all()
        return
    assert white.mean() == pytest.approx(0, abs=1e-9)
    assert white.var(ddof=1) == pytest.approx(1, rel=1e-3) or kept.std() < 1e-2
    shifted = ours.whitened(case.values, case.mask, shift_mean=False)[case.mask > 0]
    np.testing.assert_allclose(shifted, white + kept.mean(), rtol=1e-9, atol=1e-9)
    again = ours.whitened(3 * case.values + 7, case.mask)[case.mask > 0]
    np.testing.assert_allclose(again, white, rtol=1e-4, atol=1e-4)


def test_estimates_have_the_mean_that_is_asked_for() -> None:
    """Over all tokens of two distributions, weighed by what the policy gives them."""
    dice = np.random.default_rng(0)
    p, q = (np.exp(x) / np.exp(x).sum() for x in dice.standard_normal((2, 50)))
    wanted = float((p * np.log(p / q)).sum())
    mean = {
        kind: float((ours.kl_estimates(np.log(p)[None], np.log(q)[None], np.ones((1, 50)), kind) * p).sum())  # type: ignore[arg-type]
        for kind in ("k1", "k2", "k3")
    }
    assert mean["k1"] == pytest.approx(wanted, rel=1e-12) and mean["k3"] == pytest.approx(wanted, rel=1e-12)
    assert mean["k2"] != pytest.approx(wanted, rel=1e-3)
    k3 = ours.kl_estimates(np.log(p)[None], np.log(q)[None], np.ones((1, 50)), "k3")
    assert (k3 >= 0).all() and ours.kl_estimates(np.log(p)[None], np.log(p)[None], np.ones((1, 50)), "k3").max() == 0


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ({}, [2.0, -3.0]),
        ({"scale": 0.5}, [1.0, -1.5]),
        ({"scale": 2.0, "clip": 3.0}, [3.0, -3.0]),
        ({"missing_end_penalty": 1.5}, [2.0, -4.5]),
        ({"scale": 2.0, "clip": 3.0, "missing_end_penalty": 1.0}, [3.0, -4.0]),
    ],
)
def test_what_an_answer_gets(given_: dict[str, Any], found: list[float]) -> None:
    assert ours.answer_scores([2.0, -3.0], [True, False], **given_).tolist() == found


def test_the_coefficient_follows_the_target() -> None:
    """Above the target it rises, below it falls, by a fifth of answers / horizon at most."""
    assert ours.next_coefficient(0.2, 6.0, 6.0, 10000, 256) == 0.2
    assert ours.next_coefficient(0.2, 6.6, 6.0, 10000, 1000) == pytest.approx(0.2 * 1.01)
    assert ours.next_coefficient(0.2, 60.0, 6.0, 10000, 1000) == pytest.approx(0.2 * 1.02)
    assert ours.next_coefficient(0.2, 0.0, 6.0, 10000, 1000) == pytest.approx(0.2 * 0.98)
    coefficient, kl = 0.01, math.inf
    for _ in range(500):  # a policy whose KL falls as the coefficient rises
        kl = 0.5 / coefficient
        coefficient = ours.next_coefficient(coefficient, kl, 6.0, 1000, 64)
    assert kl == pytest.approx(6.0, rel=0.02)


def test_explained_variance() -> None:
    dice = np.random.default_rng(1)
    returns, mask = dice.standard_normal((2, 9)), np.ones((2, 9))
    assert ours.explained_variance(returns, returns, mask) == 1
    assert ours.explained_variance(np.zeros((2, 9)), returns, mask) == pytest.approx(0, abs=1e-12)
    assert ours.explained_variance(-returns, returns, mask) == pytest.approx(-3)
    assert ours.explained_variance(returns, np.ones((2, 9)), mask) == 0
