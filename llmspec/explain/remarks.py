"""What a person who knows the field would say to the curves of a phase, by the names of its metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from llmspec.compiler.plan import PhasePlan
from llmspec.explain.curves import Curve, NamedCurve, ValidationCurve, overfitting
from llmspec.explain.ledger import LedgerRow
from llmspec.parts.phases.rollouts import FAR, RolloutPhase

CLIPPED = 0.5
"""Share of clipped steps from which on it is worth a remark."""
END = 5
"""The last of so many parts of a phase is looked at by itself: what begins late is hidden in a mean."""
STILL = 1e-6
"""Nats per token below which a model is where it started: a decay of weights alone moves it by some 1e-8."""
Said = Callable[[Curve], str]


def most(least: float, said: str) -> Said:
    """Says something where the mean of a share over all steps is `least` or more."""

    def look(curve: Curve) -> str:
        mean = sum(curve.values) / len(curve.values)
        return said.format(f"{mean:.0%}") if mean >= least else ""

    return look


def never(said: str) -> Said:
    """Says something where a number was 0 in every step."""
    return lambda curve: said if not any(curve.values) else ""


def cut(curve: Curve) -> str:
    """What is said where few answers end by themselves."""
    mean = sum(curve.values) / len(curve.values)
    if mean > 0.5:
        return ""
    said = f"only {mean:.0%} of the answers ended by themselves; the others were" if mean else "all answers were"
    return f"{said} cut. A larger `max_tokens`, or a `missing_end_penalty`, would change that."


def far(curve: Curve) -> str:
    """What is said where a model is far from its reference, or never left it."""
    if max(map(abs, curve.values)) < STILL:
        return "the model never moved away from its reference: nothing was learned."
    mean = sum(curve.values) / len(curve.values)
    if mean < FAR:
        return ""
    return (
        f"the model is {mean:.1f} nats a token from its reference: what it says may be no text any more. A larger "
        "`kl_coefficient` or a lower learning rate holds it nearer, and a `kl_ceiling` stops in time."
    )


LOOKED_AT: dict[str, Said] = {
    "groups_alike": most(
        0.5,
        "in {} of the groups all answers had the same reward, and taught nothing. A reward that tells more answers "
        "apart, a higher `temperature`, or prompts of another difficulty would help.",
    ),
    "answers_alike": most(
        0.5, "in {} of the groups all answers were the same. A higher `temperature` would draw different ones."
    ),
    "clip_fraction": most(
        0.5,
        "{} of the ratios were clipped, and had no gradient. A lower learning rate, or fewer `epochs_per_rollout`, "
        "would help.",
    ),
    "score_std": never("the reward was the same for all answers of every step: nothing could be learned from it."),
    "reference_kl": far,
    "commonest_answer": most(
        0.6,
        "{} of the answers were one and the same. A higher `temperature` or a larger `kl_coefficient` would help.",
    ),
    "at_best_reward": most(
        0.9,
        "{} of the answers had the highest reward there was: it tells them apart no longer, and little is left to be "
        "learned from it.",
    ),
    "kept": never("no answer came to the `threshold`: nothing was learned from. A lower one would keep some."),
    "rewards/margins": never("no answer gained on its counterpart: nothing was learned."),
    "ended": cut,
}
"""Metric -> what is said of its curve; '' for nothing."""


def moved(metric: NamedCurve, planned: PhasePlan) -> NamedCurve:
    """The curve of a metric from where it can say something: the first rollout is drawn before any update, by the model
    that is the reference still."""
    if metric.name != "reference_kl" or not isinstance(planned.phase, RolloutPhase):
        return metric
    first = planned.phase.steps_per_rollout
    return replace(metric, curve=Curve(metric.curve.steps[first:], metric.curve.values[first:]))


def of_metrics(metrics: Sequence[NamedCurve]) -> Iterator[str]:
    """Why nothing may have been learned, as far as the metrics say."""
    for metric in metrics:
        look, curve = LOOKED_AT.get(metric.name), metric.curve
        if look is None or not curve.values:
            continue
        late = len(curve.values) // END
        if said := look(curve):
            yield said
        elif late and (said := look(Curve(curve.steps[-late:], curve.values[-late:]))):
            yield f"in the last {late:,} steps, {said}" if late > 1 else f"in the last step, {said}"


def remarks_of(
    metrics: Sequence[NamedCurve],
    held_out: Sequence[ValidationCurve],
    clipped: float | None,
    ledger: Sequence[LedgerRow],
    planned: PhasePlan,
) -> list[str]:
    """All of it; what is minimised is the first of the metrics."""
    found = [*overfitting(metrics[0], held_out), *of_metrics([moved(metric, planned) for metric in metrics])]
    if clipped is not None and clipped > CLIPPED:
        found.append(
            f"the gradient was clipped to {planned.phase.max_grad_norm:g} in {clipped:.0%} of the steps: the learning "
            "rate is in effect lower than set. A longer warm-up or a larger `max_grad_norm` would change that."
        )
    for row in ledger:
        found += [
            f"{row.source}: {k.replace('_', ' ')} {row.actual[k]:,}, planned {row.planned[k]:,}"
            for k in row.differences
        ]
    return found
