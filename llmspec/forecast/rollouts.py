"""How long rollouts take: answers drawn from the weights as they are, rewards of models, and log-probabilities.

What is drawn side by side reads the weights once a step, as fast as the memory allows, and multiplies a few rows with
them; what a processor does with the logits on top of that is the host's. The constants were measured with five models
of 0.1 to 90 million parameters.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

from llmspec.compiler.critic import critic_of
from llmspec.compiler.decoding_cost import ROWS, weight_bytes
from llmspec.compiler.plan import ModelPlan, PhasePlan
from llmspec.forecast.calibration import Rates
from llmspec.forecast.passes import BESIDE_STEP, forward_seconds, step_pieces
from llmspec.parts.phases.rollouts import REFERENCE, RolloutPhase

DRAWING, SCORING, LOG_PROBABILITIES, UPDATE = "drawing", "scoring", "log-probabilities", "update"
"""What the seconds of the steps of a phase that draws answers go into."""
FEW_ROWS = 2.0
"""How many times slower products of a few rows are than those of a pass, beside reading their weights."""
UNKNOWN_MEMORY = 0.5
"""Where nobody has measured the memory, reading all weights, as a share of the time of ROWS tokens of a pass."""
DRAWN = 1e-4
"""Seconds of a step of drawing, whatever its size."""
TOKEN, LOGIT = 2e-5, 6.5e-9
"""Seconds that the host takes for a drawn token, and for each of its logits."""
LOOSE = 1.1
"""Rows that answers of different lengths take, as a multiple of those that they would fill."""
SHORTEST = 16
"""Tokens to which the shortest prompts and answers are padded that are read whole."""
WEIGHED = 4e-9
"""Seconds for a logit of which the entropy is made."""


class Lengths(NamedTuple):
    """Tokens of a prompt and of an answer, on average."""

    prompt: float
    answer: float


class Rollout(NamedTuple):
    """Seconds of one rollout."""

    drawing: float
    scoring: float
    log_probabilities: float
    token: float
    """Of them, for each token of an answer that is drawn."""
    alone: float
    """For a token of an answer that is drawn by itself."""

    @property
    def parts(self) -> dict[str, float]:
        """What they go into, without the steps that follow."""
        named = {DRAWING: self.drawing, SCORING: self.scoring, LOG_PROBABILITIES: self.log_probabilities}
        return {name: seconds for name, seconds in named.items() if seconds}


def lengths(planned: PhasePlan) -> Lengths:
    """As long as the answers that the data have, once those are read; before that, answers of `max_tokens` to prompts
    that take half of what is left of the context."""
    phase, shares = planned.phase, planned.shares
    assert isinstance(phase, RolloutPhase), "it draws answers"
    blocks = sum(s.blocks or 0 for s in shares)
    if not blocks or any(s.tokens_read is None or s.tokens_supervised is None for s in shares):
        return Lengths(max(1.0, (planned.model.context - phase.max_tokens) / 2), float(phase.max_tokens))
    read, learned = (sum(getattr(s, key) for s in shares) for key in ("tokens_read", "tokens_supervised"))
    return Lengths(max(1.0, (read - learned) / blocks), max(1.0, min(phase.max_tokens, learned / blocks)))


def passes_of(planned: PhasePlan, answers: float) -> int:
    """Passes whose rows hold so many answers with their prompts, one after another."""
    phase, (prompt, answer) = planned.phase, lengths(planned)
    rows = min(answers, LOOSE * answers * (prompt + answer - 1) / planned.model.context)
    return max(1, ceil(rows / phase.micro_batch_size))


def update(planned: PhasePlan, rates: Rates) -> float:
    """Seconds of a step that learns from its part of a rollout; passes that stay empty are left out."""
    phase = planned.phase
    assert isinstance(phase, RolloutPhase), "it draws answers"
    passes = min(phase.gradient_accumulation_steps, passes_of(planned, phase.learned / phase.mini_batches))
    critic = critic_of(phase, planned.others)
    trained = ((planned.model, phase), *(() if critic is None else (critic,)))
    return sum(step_pieces(model, how, rates, passes).total for model, how in trained)


def rollout(planned: PhasePlan, rates: Rates, memory_rate: float | None) -> Rollout:
    """Seconds of one rollout of a phase on a machine of these rates; `memory_rate` is what it reads of weights, in
    bytes a second, where that is known."""
    phase, model, (prompt, answer) = planned.phase, planned.model, lengths(planned)
    assert isinstance(phase, RolloutPhase), "it draws answers"
    whole = phase.micro_batch_size * model.context
    """Tokens of a pass."""
    pass_forward = forward_seconds(model, phase, phase.objective.head, rates, 1)
    each = pass_forward / whole
    read = weight_bytes(model, {}) / memory_rate if memory_rate else UNKNOWN_MEMORY * ROWS * each
    of_token = FEW_ROWS * each + TOKEN + LOGIT * model.vocab
    token = (DRAWN + read) / min(ROWS, phase.answers) + of_token
    drawing = phase.answers * answer * token + phase.prompts_per_rollout * _padded(prompt) * each
    passes = passes_of(planned, phase.answers)
    asked = 0.0
    if phase.objective.gathered:
        weighed = WEIGHED * whole * model.vocab
        logits = 2.0 * whole * model.vocab * model.d_model / rates.product(model.d_model)
        asked = pass_forward + logits + weighed
        reference = planned.others.get(REFERENCE)
        if reference is not None:
            asked += forward_seconds(reference.model, phase, reference.model.generating_head, rates, 1)
        asked += asked * phase.bare_reference + BESIDE_STEP
        if (critic := critic_of(phase, planned.others)) is not None:
            says, how = critic
            asked += forward_seconds(says, how, how.objective.head, rates, 1) + BESIDE_STEP
    read_of_judges = phase.answers * _padded(prompt + answer)
    roles = {other.role for other in phase.others() if other.judges}
    judges = [other.model for role, other in planned.others.items() if role in roles]
    scoring = sum(_score_seconds(planned, judge, rates, read_of_judges) for judge in judges)
    return Rollout(drawing, scoring, passes * asked, token, DRAWN + read + of_token)


def _score_seconds(planned: PhasePlan, judge: ModelPlan, rates: Rates, tokens: float) -> float:
    """Seconds in which a reward model reads so many tokens; the smallest of its heads is the one that gives rewards."""
    head = min(judge.heads, key=lambda name: judge.heads[name].outputs(judge.dims))
    passes = tokens / (planned.phase.micro_batch_size * judge.context)
    return forward_seconds(judge, planned.phase, head, rates, passes)


def _padded(tokens: float) -> int:
    """The power of 2 that holds so many tokens."""
    return max(SHORTEST, 1 << (ceil(tokens) - 1).bit_length())
