"""Shares of a mixture and a budget become whole blocks and steps, and what repeats a source too often is refused."""

from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.core.units import Budget
from llmspec.data.mixture import Demand, portions, too_often

demands = st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.1, 500), st.floats(1, 256)), min_size=1, max_size=5)
budgets = (
    st.builds(Budget, st.integers(1, 10**6).map(float), st.just("tokens"))
    | st.builds(Budget, st.integers(1, 2000).map(float), st.just("steps"))
    | st.builds(Budget, st.floats(0.1, 20), st.just("epochs"), st.just("s0"))
)


@given(drawn=demands, budget=budgets, per_step=st.sampled_from([1, 4, 48]))
@settings(deadline=None, max_examples=300)
def test_shares_hold_within_a_block_and_the_budget_is_met(
    drawn: list[tuple[float, float, float]], budget: Budget, per_step: int
) -> None:
    total = sum(share for share, _, _ in drawn)
    parts = [Demand(f"s{i}", share / total, epoch, fill, 1e9) for i, (share, epoch, fill) in enumerate(drawn)]
    steps, blocks = portions(budget, parts, per_step)
    assert sum(blocks) == steps * per_step and steps >= 1
    # Tokens in the proportions of the shares: blocks in proportion to share / tokens per block.
    raw = [part.share / part.tokens_per_block for part in parts]
    for n, x in zip(blocks, raw, strict=True):
        assert abs(n - steps * per_step * x / sum(raw)) < 1 + 1e-6

    def asked(steps: int) -> float:
        """The budget's unit, for that many steps in exact shares."""
        n = steps * per_step / sum(raw)
        return {"tokens": n, "steps": steps, "epochs": n * raw[0] / parts[0].blocks_per_epoch}[budget.unit]

    assert asked(steps) >= budget.amount * (1 - 1e-4)
    slack = 1.01 / parts[0].blocks_per_epoch if budget.unit == "epochs" else 0
    assert steps == 1 or asked(steps - 1) < budget.amount * (1 + 1e-4) + slack


def test_spare_blocks_go_to_the_largest_remainders() -> None:
    parts = [Demand(name, share, 100, 8, 1e9) for name, share in (("a", 0.13), ("b", 0.48), ("c", 0.39))]
    assert portions(Budget.parse("1 steps"), parts, 10).blocks == (1, 5, 4)


@given(drawn=demands, budget=budgets, most=st.floats(0.5, 4))
@settings(deadline=None, max_examples=200)
def test_a_source_is_refused_exactly_where_the_budget_repeats_it_too_often(
    drawn: list[tuple[float, float, float]], budget: Budget, most: float
) -> None:
    total = sum(share for share, _, _ in drawn)
    parts = [Demand(f"s{i}", share / total, epoch, fill, most) for i, (share, epoch, fill) in enumerate(drawn)]
    refused = {problem.path[-1] for problem in too_often(budget, parts, 4)}
    mean = 1 / sum(part.share / part.tokens_per_block for part in parts)
    tokens = {
        "tokens": budget.amount,
        "steps": budget.amount * 4 * mean,
        "epochs": budget.amount * parts[0].blocks_per_epoch * parts[0].tokens_per_block / parts[0].share,
    }
    for part in parts:
        epochs = tokens[budget.unit] * part.share / (part.blocks_per_epoch * part.tokens_per_block)
        if abs(epochs / most - 1) > 1e-4:
            assert (part.source in refused) == (epochs > most)
