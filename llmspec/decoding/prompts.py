"""Prompts as token ids: plain text, and dialogues in the form of a chat template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from llmspec.core.problems import LlmspecError, one_of
from llmspec.parts.templates import ChatTemplate
from llmspec.parts.templates.base import Marker, Pieces, Segment, Turn, encode
from llmspec.parts.tokenizers.base import Codec, Following
from llmspec.parts.tokenizers.special_tokens import ROLES

Prompt = str | Sequence[tuple[str, str]]
"""A text, or a dialogue's turns: (role, text)."""


def turns_of(prompt: Any) -> list[tuple[str, str]]:
    """The turns of a dialogue: (role, text), or maps with `role` and `content`. Raises TypeError for what is none."""
    turns = list(prompt) if isinstance(prompt, Iterable) and not isinstance(prompt, bytes | dict) else None
    turns = turns and [
        (t["role"], t["content"]) if isinstance(t, dict) and {*t} == {"role", "content"} else t for t in turns
    ]
    if turns is None or not all(
        isinstance(t, tuple | list) and len(t) == 2 and all(isinstance(x, str) for x in t) for t in turns
    ):
        raise TypeError("a prompt is a text, or turns such as [('user', 'What is a comet?')]")
    if not turns:
        raise ValueError("a dialogue without turns is not a prompt")
    return [(role, text) for role, text in turns]


def prompt_tokens(
    codec: Codec,
    template: ChatTemplate,
    prompt: Prompt,
    chat: bool,
    markers: Sequence[str] = (),
    whole: bool = False,
    pairs: bool = False,
) -> list[int]:
    """Ids of what a model is given: turns, a text that is a user's turn (`chat`), or one to go on with; or that an
    encoder reads `whole`, or that is the source of a pair (`pairs`), whose target a decoder says behind an end token.

    The one way for samples in training, for `sample` and for conversations. Raises as `chat_prompt` does.
    """
    if isinstance(prompt, str) and not chat:
        ids = text_prompt(codec, prompt, markers, whole)
        return [*ids, codec.specials.need("eos")] if pairs and not whole else ids
    return chat_prompt(codec, template, [("user", prompt)] if isinstance(prompt, str) else prompt, markers)


def with_system(prompt: Prompt, system: str) -> Prompt:
    """The same behind a system message, where there is one."""
    if not system:
        return prompt
    return [("system", system), *([("user", prompt)] if isinstance(prompt, str) else prompt)]


def chat_prompt(
    codec: Codec, template: ChatTemplate, turns: Iterable[tuple[str, str]], markers: Sequence[str] = ()
) -> list[int]:
    """Ids of a dialogue of (role, text), and of what begins the assistant's answer: what training data are encoded to,
    cut before that answer.

    Text never becomes a special token, except for the spec's own `markers`.

    Raises:
        LlmspecError: a role that chat models do not have, or a tokenizer without a token that the template needs.
    """
    dialogue = []
    for role, text in turns:
        known = next((r for r in ROLES if r == role), None)
        if known is None:
            raise LlmspecError(f"no role is named `{role}`", one_of(role, ROLES), "there is no token to begin its turn")
        dialogue.append(Turn(known, pieces(codec, text, markers)))
    return encode(codec, template.prompt(codec.specials, dialogue))


def text_prompt(codec: Codec, text: str, markers: Sequence[str] = (), whole: bool = False) -> list[int]:
    """Ids of the token that begins every document, where the tokenizer has one, and of the text. A text of nothing
    begins with what stands between documents, where nothing else does. A text that an encoder reads `whole` stands
    between the special tokens that its tokenizer puts around a text, such as T5's `</s>` behind it.

    The spec's own `markers` (`Tokenizer.markers`) become their special tokens; what spells a role token or another
    of the fixed special tokens is only text, so that a prompt cannot speak for somebody else.
    """
    special = codec.specials
    begin = () if special.bos is None else (special.bos,)
    framed = whole and (special.before or special.after)
    before, after = (special.before, special.after) if framed else (begin, ())
    if not (text or before or after) and special.eos is not None:
        before = (special.eos,)
    return encode(codec, [*map(Segment, before), *map(Segment, pieces(codec, text, markers)), *map(Segment, after)])


def pieces(codec: Codec, text: str, markers: Sequence[str]) -> Pieces:
    """A text with its markers set apart; of two that begin at the same place, the longer."""
    special = codec.specials
    known = sorted(
        (m for m in set(markers) if special.get(m, -1) not in {-1, *special.reserved}), key=len, reverse=True
    )
    if not known:
        return (text,) if text else ()
    split = re.split(f"({'|'.join(map(re.escape, known))})", text)
    # re.split alternates text and marker; empty texts stand between neighbouring markers.
    return tuple(Marker(piece) if i % 2 else Following(piece) if i else piece for i, piece in enumerate(split) if piece)
