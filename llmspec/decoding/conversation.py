"""A conversation that goes on: its turns, what of them the model still reads, and a KV cache that stays."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from llmspec.core.problems import LlmspecError
from llmspec.decoding.answer import Event
from llmspec.decoding.batch import Stopped
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

    def instruct(self, system: str) -> None:
        """The system message from now on; '' for none. Raises LlmspecError, and changes nothing, where the chat
        template has no place for one."""
        self._tokens([("user", "?")], system)
        left_out, used = self._fitting(self.turns, system)
        self.system, self.left_out, self.used = system, left_out, used

    def undo(self) -> tuple[str, str] | None:
        """Takes back the last question and its answer, which it returns; None where there is none. Raises LlmspecError,
        and changes nothing, where the chat template refuses what is left."""
        if not self.turns:
            return None
        (_, question), (_, answer) = self.turns[-2:]
        turns = self.turns[:-2]
        left_out, used = self._fitting(turns, self.system)
        self.turns, self.left_out, self.used = turns, left_out, used
        return question, answer

    def clear(self) -> None:
        """Forgets every turn; the system message and the settings stay."""
        self.turns, self.left_out, self.used = [], 0, 0

    def _fitting(self, turns: list[tuple[str, str]], system: str) -> tuple[int, int]:
        """How many of the oldest turns the context has no room for, and how many places the others take."""
        if not turns:
            return 0, 0
        left_out = 0
        while len(ids := self._tokens(turns[left_out:], system)) > self.context and left_out + 2 < len(turns):
            left_out += 2
        return left_out, min(len(ids), self.context)

    def ask(self, text: str, stopped: Stopped | None = None) -> Generator[Event]:
        """The answer to a question, token by token; both are turns of the conversation then, also where whoever reads
        it stops. A question to which nothing was said is none. `stopped` is asked between the pieces in which the
        question is read, too: where it holds, nothing is drawn, and the conversation is as if nothing had been asked.

        Raises LlmspecError, and keeps nothing, where the question alone has no room in the context.
        """
        turns = [*self.turns, ("user", text)]
        left_out, ids = self._cut(turns)
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
            stopped=stopped,
        )
        before = self.left_out, self._answers
        self.left_out, self._answers = left_out, self._answers + 1
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
            if not said:
                self.left_out, self._answers = before

    def _tokens(self, turns: list[tuple[str, str]], system: str) -> list[int]:
        prompt: Prompt = with_system(turns, system)
        return self._model.tokens(prompt, chat=True)

    def _cut(self, turns: list[tuple[str, str]]) -> tuple[int, list[int]]:
        """How many of the oldest turns are left out, and the tokens of the others, which leave room for an answer:
        whole questions with their answers are left out, and stay so.

        The room is what an answer may take, and half of the context at most.
        """
        decoder = self._model.drawing
        room = 0 if decoder.encoder_context else min(self.decoding.max_tokens, self.context // 2)
        left_out = self.left_out
        while len(ids := self._tokens(turns[left_out:], self.system)) > self.context - room and left_out + 2 < len(
            turns
        ):
            left_out += 2
        which = "the question, with the system message," if self.system else "the question"
        if problem := no_room(which, ids, decoder.context, decoder.encoder_context):
            raise LlmspecError(problem)
        return left_out, ids

    def _make_room(self, tokens: int) -> None:
        """A KV cache of at least so many places, as far as the context goes, which holds what was read."""
        decoder = self._model.drawing
        needed, kind = min(tokens, decoder.context), self.decoding.kv_cache
        if self._cache is None or self._cache.kind != kind:
            self._cache = decoder.cache(*decoder.fit(1, needed, kind), kind)
        elif self._cache.places < needed:
            self._cache = decoder.grown(self._cache, decoder.fit(1, needed, kind)[1])
