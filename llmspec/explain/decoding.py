"""How each token of a text was chosen: what the model thought, what every filter made of it, what was drawn."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llmspec.core.visible import escaped
from llmspec.explain.chain import chain_settings
from llmspec.explain.report import Report

if TYPE_CHECKING:
    from llmspec.decoding.generate import Event
    from llmspec.parts.tokenizers.base import Codec

SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥"}
"""What stands for characters that cannot be seen."""


@dataclass(frozen=True)
class TokenCandidate:
    """A token that could have been drawn."""

    token: int
    text: str
    """Its characters, made visible."""
    rank: int
    """From 1, the most probable in the model's own distribution."""
    probabilities: tuple[float, ...]
    """In the model's own distribution, then after each filter."""
    chosen: bool


@dataclass(frozen=True)
class TokenReport:
    """One token of the answer. Columns are the model's own distribution and what each filter left of it."""

    position: int
    """From 1, in the answer."""
    token: int
    text: str
    logprob: float
    """Nats, in the model's own distribution."""
    probability: float
    """With which it was drawn, after all filters."""
    entropy_bits: tuple[float, ...]
    """One number per column."""
    kept: tuple[int, ...]
    """Tokens with any probability; one number per column."""
    candidates: tuple[TokenCandidate, ...]
    finish_reason: str | None


@dataclass(frozen=True)
class PromptReport(Report):
    """An answer to a prompt, token by token."""

    about: ClassVar[str] = "prompt"
    name: str
    phase: str
    chat: bool
    prompt: str
    prompt_tokens: tuple[str, ...]
    """The texts of the tokens that the model was given, special ones included, made visible."""
    seed: int
    filters: tuple[tuple[str, str], ...]
    """(name, settings) of each filter that is on, in order."""
    vocab: int
    tokens: tuple[TokenReport, ...]
    text: str
    finish_reason: str | None
    sources: tuple[dict[str, str], ...]
    """Whom to name for what the model has read."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the distributions: the model's own, then one per filter."""
        return ("model", *(name for name, _ in self.filters))


class Listener:
    """A decoder that keeps the logits it gave last, so that they can be looked at also where no filter is on."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.logits: Any = None

    @property
    def context(self) -> int:
        return self.decoder.context

    @property
    def encoder_context(self) -> int:
        return self.decoder.encoder_context

    def fit(self, rows: int, tokens: int, kind: str) -> tuple[int, int]:
        return self.decoder.fit(rows, tokens, kind)

    def worth(self, kept: int, tokens: int) -> bool:
        return self.decoder.worth(kept, tokens)

    def cache(self, rows: int, places: int, kind: str) -> Any:
        return self.decoder.cache(rows, places, kind)

    def prefill(self, prompts: Any, cache: Any, rows: Any, reuse: bool) -> tuple[Any, Any]:
        cache, logits_RV = self.decoder.prefill(prompts, cache, rows, reuse)
        return cache, self._kept(logits_RV)

    def step(self, cache: Any, tokens: Any, active: Any) -> Any:
        return self._kept(self.decoder.step(cache, tokens, active))

    def _kept(self, logits_RV: Any) -> Any:
        self.logits = logits_RV.astype("float64")
        return logits_RV


def explain_prompt(model: Any, prompt: str, seed: int | None = None, top: int = 5, **decoding: Any) -> PromptReport:
    """The report of one answer by a LanguageModel, the same answer that `generate` gives.

    Of each token's candidates, the `top` that the model holds most probable are kept, and the one that was drawn.
    Raises LlmspecError where the prompt does not fit, pydantic's ValidationError for wrong settings.
    """
    from llmspec.decoding.generate import stream

    settings = model.settings(**decoding)
    given, listener = model.tokens(prompt), Listener(model.drawing)
    drawn_from = model.seed(seed, settings)
    tokens: list[TokenReport] = []
    text, reason = "", None
    for event in stream(listener, model.codec, [given], settings, seed=drawn_from, chat=model.chat, tracing=True):
        tokens.append(token_report(len(tokens) + 1, event, listener.logits[0], model.codec, top))
        text, reason = text + event.text, event.finish_reason
    return PromptReport(
        name=model.plan.name,
        phase=model.phase,
        chat=model.chat,
        prompt=prompt,
        prompt_tokens=tuple(token_text(model.codec, t) for t in given),
        seed=drawn_from,
        filters=chain_settings(settings),
        vocab=model.codec.vocab,
        tokens=tuple(tokens),
        text=text,
        finish_reason=reason,
        sources=tuple(
            {"source": s.name, "license": s.source.license, "attribution": s.source.attribution}
            for s in model.plan.sources
            if s.source.license or s.source.attribution
        ),
    )


def token_report(position: int, event: Event, logits_V: Any, codec: Codec, top: int) -> TokenReport:
    """One drawn token among its candidates."""
    import numpy as np

    from llmspec.decoding.chain import entropy_bits, probabilities

    columns = np.stack([probabilities(logits_V), *(step.after for step in event.steps)])
    order = np.argsort(-columns[0], kind="stable")
    rank_of = np.empty(order.size, np.int64)
    rank_of[order] = np.arange(1, order.size + 1)
    shown = [int(t) for t in order[:top]]
    if event.token not in shown:
        shown.append(event.token)
    candidates = tuple(
        TokenCandidate(
            t, token_text(codec, t), int(rank_of[t]), tuple(float(p) for p in columns[:, t]), t == event.token
        )
        for t in shown
    )
    return TokenReport(
        position,
        event.token,
        token_text(codec, event.token),
        event.choice.logprob,
        event.choice.probability,
        tuple(float(h) for h in entropy_bits(columns)),
        tuple(int(n) for n in (columns > 0).sum(axis=1)),
        candidates,
        event.finish_reason,
    )


# -- text that can be seen -----------------------------------------------------------------------------------------
def token_text(codec: Codec, token: int) -> str:
    """A token's characters made visible; a special token's spelling."""
    special = next((s for s, i in codec.specials.items() if i == token), None)
    return special if special is not None else visible_bytes(codec.token_bytes(token)) or "(empty)"


def visible_bytes(data: bytes) -> str:
    r"""Text in which nothing hides: spaces are `·`, newlines `⏎`, what is not a whole character is `\xe2`."""
    # Controls, odd spaces, and marks that would sit on their neighbour; a byte that is no character; the signs.
    return "".join(
        SIGNS[c] if c in SIGNS else escaped(c) if c in SIGNS.values() or unicodedata.category(c)[0] in "CZM" else c
        for c in data.decode("utf-8", "surrogateescape")
    )
