"""Prompts as token ids: plain text, and dialogues as chat models are trained on them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llmspec.core.problems import LlmspecError, one_of
from llmspec.parts.tokenizers.base import Codec
from llmspec.parts.tokenizers.special_tokens import ROLES


def chat_prompt(codec: Codec, turns: Iterable[tuple[str, str]], markers: Sequence[str] = ()) -> list[int]:
    """Ids of `<|end|>`, each (role, text) as `<|role|> text <|end_of_turn|>`, and `<|assistant|>` to be continued.

    No spaces are added between the tokens. Text never becomes a special token, except for the spec's own `markers`.

    Raises:
        LlmspecError: a role that chat models do not have.
    """
    special = codec.specials
    ids = [special.need("bos")]
    for role, text in turns:
        if role not in ROLES:
            raise LlmspecError(f"no role is named `{role}`", one_of(role, ROLES), "there is no token to begin its turn")
        ids += [special.need(role), *_spelled(codec, text, markers), special.need("turn_end")]
    return [*ids, special.need("assistant")]


def text_prompt(codec: Codec, text: str, markers: Sequence[str] = ()) -> list[int]:
    """Ids of `<|end|>`, which begins every document, and of the text.

    The spec's own `markers` (`Tokenizer.markers`) become their special tokens; what spells a role token or another
    of the fixed special tokens is only text, so that a prompt cannot speak for somebody else.
    """
    return [codec.specials.need("bos"), *_spelled(codec, text, markers)]


def _spelled(codec: Codec, text: str, markers: Sequence[str]) -> list[int]:
    """Ids of a text in which markers are special tokens; of two that begin at the same place, the longer."""
    special = codec.specials
    known = sorted((m for m in set(markers) if special.get(m, -1) not in {-1, *special.meant}), key=len, reverse=True)
    if not known:
        return list(codec.encode([text])[0]) if text else []
    pieces = re.split(f"({'|'.join(map(re.escape, known))})", text)
    # re.split alternates text and marker; empty texts stand between neighbouring markers.
    encoded = codec.encode(pieces[::2])
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        ids += [codec.specials[piece]] if i % 2 else encoded[i // 2] if piece else []
    return ids
