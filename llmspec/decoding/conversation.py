"""A conversation that goes on: its turns, what of them the model still reads, and a KV cache that stays."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from llmspec.core.problems import LlmspecError
from llmspec.decoding.answer import Event
from llmspec.decoding.generate import no_room, stream
from llmspec.decoding.prompts import Prompt, with_system

if TYPE_CHECKING:
    from llmspec.decoding.language_model import LanguageModel
    from llmspec.spec.decoding import Decoding


class Conversation:
    """A user's and a model's turns. The first answer is that of `LanguageModel.generate` to the same turns and seed;
    later ones draw from further streams of random numbers, so that a question asked again has another answer.

    Each question reads only what the KV cache does not hold yet: the new turns, and where the text of an answer has
    other tokens than those that were drawn, what follows there.
    """

    def __init__(
        self, model: LanguageModel, *, system: str = "", decoding: Decoding | None = None, seed: int | None = None
    ) -> None:
        """Raises LlmspecError for a model that is none for dialogues."""
        if not model.chat:
            _ = model.drawing  # raises for one that draws no text at all, with what it does
            raise LlmspecError(
                f"{model.plan.name} answers no dialogues: it was trained to continue texts",
                hint="`llmspec sample` lets it continue one; a phase of kind sft trains it on dialogues",
                consequence="it would not know whose turn it is",
            )
        self._model = model
        self.decoding: Decoding = decoding or model.settings()
        self.seed = seed
        self.turns: list[tuple[str, str]] = []
        """(role, text) of the user and the assistant in turn, without the system message."""
        self.left_out = 0
        """How many of the oldest turns the model no longer reads, since the context has no room for them."""
        self.used = 0
        """Places of the context that are taken."""
        self.system = system
        self._cache: Any = None
        self._answers = 0

    @property
    def context(self) -> int:
        """Most tokens that the model reads of a conversation."""
        decoder = self._model.drawing
        return decoder.encoder_context or decoder.context

    def messages(self) -> list[dict[str, str]]:
        """Every turn, system message included, as records of training data have them."""
        said = [("system", self.system)] if self.system else []
        return [{"role": role, "content": text} for role, text in (*said, *self.turns)]

    def undo(self) -> tuple[str, str] | None:
        """Takes back the last question and its answer, which it returns; None where there is none."""
        if not self.turns:
            return None
        (_, question), (_, answer) = self.turns[-2:]
        del self.turns[-2:]
        self._shortened()
        return question, answer

    def clear(self) -> None:
        """Forgets every turn; the system message and the settings stay."""
        self.turns.clear()
        self._shortened()

    def _shortened(self) -> None:
        self.left_out = 0
        if not self.turns:
            self.used = 0
            return
        while len(ids := self._tokens(self.turns[self.left_out :])) > self.context and self.left_out + 2 < len(
            self.turns
        ):
            self.left_out += 2
        self.used = min(len(ids), self.context)

    def ask(self, text: str) -> Generator[Event]:
        """The answer to a question, token by token; both are turns of the conversation then, also where whoever reads
        it stops. A question to which nothing was said is none.

        Raises LlmspecError, and keeps nothing, where the question alone has no room in the context.
        """
        turns = [*self.turns, ("user", text)]
        ids = self._cut(turns)
        decoder, settings, said, used = self._model.drawing, self.decoding, list[str](), self.used
        self._make_room(len(ids) + settings.max_tokens)
        events = stream(
            decoder,
            self._model.codec,
            [ids],
            settings,
            seed=self._model.seed(self.seed, settings),
            chat=True,
            cache=self._cache,
            first=self._answers,
        )
        self._answers += 1
        try:
            for drawn, event in enumerate(events, 1):
                said.append(event.text)
                self.used = len(ids) + (0 if decoder.encoder_context else drawn)
                yield event
        finally:
            if any(said):
                self.turns = [*turns, ("assistant", "".join(said))]
            else:
                self.used = used

    def _tokens(self, turns: list[tuple[str, str]]) -> list[int]:
        prompt: Prompt = with_system(turns, self.system)
        return self._model.tokens(prompt, chat=True)

    def _cut(self, turns: list[tuple[str, str]]) -> list[int]:
        """The tokens of the newest turns that leave room for an answer: whole questions with their answers are left
        out from the oldest on, and stay so.

        The room is what an answer may take, and half of the context at most.
        """
        decoder = self._model.drawing
        room = 0 if decoder.encoder_context else min(self.decoding.max_tokens, self.context // 2)
        left_out = self.left_out
        while len(ids := self._tokens(turns[left_out:])) > self.context - room and left_out + 2 < len(turns):
            left_out += 2
        which = "the question, with the system message," if self.system else "the question"
        if problem := no_room(which, ids, decoder.context, decoder.encoder_context):
            raise LlmspecError(problem)
        self.left_out = left_out
        return ids

    def _make_room(self, tokens: int) -> None:
        """A KV cache of at least so many places, as far as the context goes, which holds what was read."""
        decoder = self._model.drawing
        needed, kind = min(tokens, decoder.context), self.decoding.kv_cache
        if self._cache is None or self._cache.kind != kind:
            self._cache = decoder.cache(*decoder.fit(1, needed, kind), kind)
        elif self._cache.places < needed:
            self._cache = decoder.grown(self._cache, decoder.fit(1, needed, kind)[1])
