"""What a chat template is: a dialogue as special tokens and text, each piece with the role whose words it is.

Encoding of training dialogues, prompting, and the checks of both go through this one description, so that a model is
asked in the form that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, NamedTuple

from llmspec.core.problems import Problem
from llmspec.parts.base import Default, Part
from llmspec.parts.tokenizers.base import Codec
from llmspec.parts.tokenizers.special_tokens import ChatRole, SpecialTokens


class Marker(str):
    """A marker that a template spells: becomes its one id, where text that looks like it does not."""

    __slots__ = ()


Pieces = tuple[str, ...]
"""Text in stretches: each is a `Marker` or plain text; empty stretches are left out."""


class Turn(NamedTuple):
    """One turn of a dialogue."""

    role: ChatRole
    content: Pieces


class Segment(NamedTuple):
    """A stretch of a dialogue as the model reads it."""

    content: int | str
    """The id of a special token, or a text; a `Marker` stands for its token."""
    role: ChatRole | None = None
    """Whose words it is, and so whose phase trains on it; None for what the template adds around them."""


class ChatTemplate(Part):
    """How a dialogue becomes one sequence of tokens.

    The end of a turn belongs to its role: whoever learns to say the turn learns to end it.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Meanings of the special tokens without which it can render nothing: `bos`, `turn_end`, the names of roles."""
    relative: ClassVar[tuple[str, ...]] = ()
    """Keys that hold paths: relative ones start in the folder of the file that says them."""

    def opened(self, base: str) -> dict[str, Default]:
        """Values for the keys that are None, out of the files that the others name; `base` is the folder in which
        relative paths start. Raises DataError where these files cannot be read."""
        return {}

    def jinja(self, specials: SpecialTokens) -> str:
        """The same as a Jinja template of transformers (`messages`, `add_generation_prompt`); '' where the tokenizer
        lacks a token that it needs."""
        return ""

    def go(self, specials: SpecialTokens) -> str:
        """The same in Go's language of templates, as Ollama reads it (`.Messages`), without the bos token, which it
        puts there itself; '' where that is not known."""
        return ""

    def check(self, specials: SpecialTokens) -> Iterable[Problem]:
        """What is wrong with it for a tokenizer of these special tokens, where a phase trains on dialogues."""
        return ()

    def render(self, specials: SpecialTokens, turns: Iterable[Turn]) -> Iterator[Segment]:
        """A whole dialogue, turn by turn. What stands before a turn does not depend on the turns from there on.

        Raises DataError where the tokenizer lacks a token that the template needs."""
        raise TypeError(f"{type(self).__name__} renders nothing")

    def prompt(self, specials: SpecialTokens, turns: Iterable[Turn]) -> list[Segment]:
        """A dialogue that the assistant is to answer, and what begins its answer."""
        return [*self.render(specials, turns), *self.answer(specials)]

    def answer(self, specials: SpecialTokens) -> tuple[Segment, ...]:
        """What follows a dialogue that the assistant is to answer: the first segments of its turn, up to its words."""
        raise TypeError(f"{type(self).__name__} asks for no answer")

    def end(self, specials: SpecialTokens) -> int | None:
        """The token that ends the assistant's turns; None where none does."""
        return specials.turn_end

    def first(self, specials: SpecialTokens) -> int | None:
        """The token that stands at the beginning of every dialogue, and nowhere else in one; None where none does."""
        return None

    def speakers(self, specials: SpecialTokens, tokens: Sequence[int]) -> list[ChatRole | None] | None:
        """For each token of dialogues that follow one another, the role whose words the token after it is.

        Read from the tokens alone, not from what `render` said of them: it is what the supervision of training data is
        checked against. None where the template's tokens do not tell.
        """
        return None


def encode(codec: Codec, segments: Iterable[Segment]) -> list[int]:
    """Segments as ids. Text never becomes a special token; neighbouring texts are tokenised apart."""
    parts = list(segments)
    texts = [part.content for part in parts if isinstance(part.content, str) and not isinstance(part.content, Marker)]
    encoded = iter(codec.encode(texts))
    ids: list[int] = []
    for part in parts:
        if isinstance(part.content, int):
            ids.append(part.content)
        elif isinstance(part.content, Marker):
            ids.append(codec.specials[part.content])
        else:
            ids += next(encoded)
    return ids
