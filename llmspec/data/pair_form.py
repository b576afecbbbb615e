"""A question and its answer as tokens, without a chat template: what phases of pairs read and their models are asked.

For an encoder and its decoder, the source stands between what the tokenizer puts around a text that is read whole, such
as T5's `</s>` behind it; that is how `llmspec sample` gives it. A decoder alone reads the source, an end token, and the
target. The target ends with the end token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from llmspec.parts.templates.base import ChatTemplate, Segment, Turn, encode
from llmspec.parts.templates.go_text import literal
from llmspec.parts.tokenizers.base import Codec
from llmspec.parts.tokenizers.special_tokens import ChatRole, SpecialTokens


class PairForm(ChatTemplate):
    """A source and its target, each once."""

    encoder: bool = True
    """Whether an encoder reads the source; otherwise it stands before the target, and an end token between them."""

    def render(self, specials: SpecialTokens, turns: Iterable[Turn]) -> Iterator[Segment]:
        for role, content in turns:
            if role == "assistant":
                for piece in content:
                    yield Segment(piece, role)
                yield Segment(specials.need("eos"), role)
                return
            before, after = self.around(specials)
            yield from map(Segment, before)
            for piece in content:
                yield Segment(piece, role)
            yield from map(Segment, after)

    def around(self, specials: SpecialTokens) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens before and behind a source."""
        begin = () if specials.bos is None else (specials.bos,)
        if not self.encoder:
            return begin, (specials.need("eos"),)
        framed = specials.before or specials.after
        return (specials.before, specials.after) if framed else (begin, ())

    def jinja(self, specials: SpecialTokens) -> str:
        """A prompt is the last message alone, as its source: no model of pairs has seen one behind another pair."""
        before, after = (json.dumps(self._spelled(specials, tokens)) for tokens in self.around(specials))
        end = json.dumps(self._spelled(specials, (specials.need("eos"),)))
        return (
            "{%- for message in messages -%}{%- if loop.last or not add_generation_prompt -%}"
            f"{{%- if message['role'] == 'assistant' -%}}{{{{- message['content'] + {end} -}}}}"
            f"{{%- else -%}}{{{{- {before} + message['content'] + {after} -}}}}{{%- endif -%}}"
            "{%- endif -%}{%- endfor -%}"
        )

    def go(self, specials: SpecialTokens) -> str:
        """The last message alone here too: earlier ones would stand before it in a template with `.Prompt`."""
        before, after = self.around(specials)
        own = tuple(token for token in before if token != specials.bos)
        begin, behind, end = (literal(self._spelled(specials, t)) for t in (own, after, (specials.need("eos"),)))
        return (
            "{{ range $i, $m := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}"
            f'{{{{ if eq .Role "assistant" }}}}{{{{ .Content }}}}{end}'
            f"{{{{ else }}}}{begin}{{{{ .Content }}}}{behind}{{{{ end }}}}"
            "{{ end }}{{ end }}"
        )

    def _spelled(self, specials: SpecialTokens, tokens: Sequence[int]) -> str:
        known = {token: spelling for spelling, token in specials.items()}
        return "".join(known[token] for token in tokens)

    def answer(self, specials: SpecialTokens) -> tuple[Segment, ...]:
        return ()

    def first(self, specials: SpecialTokens) -> int | None:
        return None if specials.bos == specials.eos else specials.bos

    def end(self, specials: SpecialTokens) -> int | None:
        return specials.eos

    def speakers(self, specials: SpecialTokens, tokens: Sequence[int]) -> list[ChatRole | None] | None:
        """A decoder's rows: after every second end token, or after one that a begin token does not follow, an answer
        begins. An encoder's text tells nothing; all that its decoder reads is the answer."""
        if self.encoder or specials.bos is None:
            return None
        speaker: ChatRole | None = None
        found: list[ChatRole | None] = []
        for token in tokens:
            if token == specials.eos and speaker == "user":
                speaker = "assistant"
            elif token == specials.bos:
                speaker = "user"
            found.append(speaker)
        return found


class TextsApart(ChatTemplate):
    """A source and its target as two texts that no model reads together: nothing stands around or between them."""

    def render(self, specials: SpecialTokens, turns: Iterable[Turn]) -> Iterator[Segment]:
        for role, content in turns:
            for piece in content:
                yield Segment(piece, role)

    def answer(self, specials: SpecialTokens) -> tuple[Segment, ...]:
        return ()

    def first(self, specials: SpecialTokens) -> int | None:
        return None

    def end(self, specials: SpecialTokens) -> int | None:
        return None


def source_ids(form: PairForm, codec: Codec, text: str) -> list[int]:
    """A source as training has it, up to where the target begins."""
    return encode(codec, form.render(codec.specials, [Turn("user", (text,) if text else ())]))
