"""Which tokens a phase's model now prefers: its answers, with the log-ratio of each token to another model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmspec.explain.decoding import token_text
from llmspec.explain.report import Report
from llmspec.explain.two_models import Asked, Pair, answers_to

MOST = 12
"""Tokens that are listed as the most preferred, and as the places where the two differ most."""


@dataclass(frozen=True)
class TokenRatio:
    """A token of an answer. Log-probabilities in nats, of the models themselves: no filter is on."""

    token: int
    text: str
    """Its characters, made visible."""
    logp: float
    other_logp: float
    divergence: float
    """KL(model ‖ other) at its place, in nats: how differently the two would go on there."""
    before: str
    """The token that the other model holds most probable there, made visible."""
    before_p: tuple[float, float]
    """The probability of that token: in the model, and in the other one."""

    @property
    def ratio(self) -> float:
        """log p(model) − log p(other): above 0 where the model prefers the token more than the other does."""
        return self.logp - self.other_logp


@dataclass(frozen=True)
class AnswerRatios:
    """An answer of the model, token by token."""

    prompt: str
    text: str
    finish_reason: str
    tokens: tuple[TokenRatio, ...]

    @property
    def ratio(self) -> float:
        """The log-ratio of the whole answer."""
        return sum(token.ratio for token in self.tokens)


@dataclass(frozen=True)
class Preferred:
    """A token over all answers."""

    text: str
    times: int
    ratio: float
    """The mean of its log-ratios."""


@dataclass(frozen=True)
class RatioReport(Report):
    """Answers of a model beside another one's opinion of each token."""

    about: ClassVar[str] = "tokens"
    name: str
    phase: str
    against: str
    chat: bool
    seed: int
    answers: tuple[AnswerRatios, ...]
    preferred: tuple[Preferred, ...]
    """Tokens of the answers that the model prefers most, by the sum of their log-ratios."""
    divergence: float
    """The mean of KL(model ‖ other) over the places of the answers, in nats a token."""


def explain_tokens(pair: Pair, prompts: Sequence[str], settings: Any, seed: int) -> RatioReport:
    """The report of the model's answers to prompts: one pass of each model over each answer. Raises LlmspecError where
    a prompt does not fit."""
    model, other, against = pair
    asked = [Asked(text, tuple(model.tokens(text))) for text in prompts]
    answers = []
    for one, said in zip(asked, answers_to(model, asked, model, settings, seed), strict=True):
        ratios = ratios_of(model, other, list(one.tokens), said.tokens)
        answers.append(AnswerRatios(one.text, said.text, said.finish_reason, ratios))
    every = [token for answer in answers for token in answer.tokens]
    return RatioReport(
        name=model.plan.name,
        phase=model.phase,
        against=against,
        chat=model.chat,
        seed=seed,
        answers=tuple(answers),
        preferred=preferred(every),
        divergence=sum(t.divergence for t in every) / max(1, len(every)),
    )


def ratios_of(model: Any, other: Any, prompt: list[int], said: list[int]) -> tuple[TokenRatio, ...]:
    """Each token of an answer with what both models think of it."""
    import numpy as np

    if not said:
        return ()
    mine, theirs = (log_probabilities(one, prompt, said) for one in (model, other))
    p = np.exp(mine)
    # A token that the model rules out adds nothing, however probable the other one holds it.
    divergence = np.where(p > 0, p * (mine - theirs), 0.0).sum(-1)
    first = theirs.argmax(-1)
    return tuple(
        TokenRatio(
            token,
            token_text(model.codec, token),
            float(mine[t, token]),
            float(theirs[t, token]),
            float(divergence[t]),
            token_text(model.codec, int(first[t])),
            (float(p[t, first[t]]), float(np.exp(theirs[t, first[t]]))),
        )
        for t, token in enumerate(said)
    )


def log_probabilities(model: Any, prompt: list[int], said: list[int], temperature: float = 1.0) -> Any:
    """(T, V) float64: the log-probabilities of the next token at each of the T tokens of an answer, by one pass; of
    logits over a temperature."""
    import numpy as np

    if model.plan.model.encoder is None:
        logits = model.logits([*prompt, *said[:-1]])[0, len(prompt) - 1 :]
    else:
        start = model.codec.specials.start_of(model.plan.model.decoder_start)
        logits = model.logits([start, *said[:-1]], prompt)[0]
    wide = logits[:, : model.codec.vocab].astype(np.float64) / temperature
    wide -= wide.max(-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


def preferred(tokens: Iterable[TokenRatio]) -> tuple[Preferred, ...]:
    """The tokens that gained most over all answers."""
    found: dict[str, list[float]] = {}
    for token in tokens:
        found.setdefault(token.text, []).append(token.ratio)
    order = sorted((text for text, ratios in found.items() if sum(ratios) > 0), key=lambda text: -sum(found[text]))
    return tuple(Preferred(text, len(r := found[text]), sum(r) / len(r)) for text in order[:MOST])
