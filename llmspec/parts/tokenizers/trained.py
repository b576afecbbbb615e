"""What tokenizers that the `tokenizers` library learns have in common: training, apart where it takes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from itertools import chain
from typing import Any, ClassVar

from llmspec.core import strict_json
from llmspec.core.folders import cache_dir
from llmspec.core.problems import DataError, Problem
from llmspec.parts.tokenizers import learner
from llmspec.parts.tokenizers.base import VOCAB_FIELD, Codec, SpelledTokenizer, foreign
from llmspec.parts.tokenizers.library import PARALLEL, LibraryCodec, checked, threads
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

AT_ONCE = 200_000
"""Characters that are learned from in this process: it takes less than a second."""
_LOOKED_AHEAD = 4
"""Characters after a word that may have a say in where it ends."""
Tell = Callable[[str], None]
"""Told now and then what is being done."""


class TrainedTokenizer(SpelledTokenizer):
    """Pieces of words, learned from the mixture."""

    algorithm: ClassVar[learner.Algorithm]
    """How they are learned."""
    vocab: int = VOCAB_FIELD
    """Number of ids: special tokens, and the pieces that are learned."""

    def size(self) -> int:
        return self.vocab

    def options(self) -> dict[str, Any]:
        """Settings of the algorithm, JSON-able."""
        return {}

    def train(self, texts: Iterable[str], tell: Tell = lambda what: None) -> Codec:
        if problems := tuple(self.check()):
            raise DataError(problems)
        texts, head, size = checked(texts), list[str](), 0
        for text in texts:
            head.append(text)
            size += len(text)
            if size > AT_ONCE:
                codec = LibraryCodec(self._learned_apart(chain(head, texts), tell))
                break
        else:
            with threads():
                found = learner.learn(head, self.vocab, self.specials(), self.algorithm, self.options())
            codec = LibraryCodec(str(found.to_str(pretty=False)))
        if codec.vocab > self.vocab:
            raise DataError(
                Problem(
                    f"the letters of the training text alone take {codec.vocab} tokens, more than {self.vocab}",
                    ("tokenizer", "vocab"),
                    f"vocab: {2 * codec.vocab}, or a tokenizer of bytes (bpe)",
                    "there would be no piece of more than one letter",
                )
            )
        if codec.vocab < self.vocab:
            raise DataError(
                Problem(
                    f"the training text yields only {codec.vocab} tokens, not {self.vocab}",
                    ("tokenizer", "vocab"),
                    f"vocab: {codec.vocab}",
                    f"{self.vocab - codec.vocab} rows of the model would never be used",
                )
            )
        return codec

    def _learned_apart(self, texts: Iterable[str], tell: Tell) -> str:
        """tokenizer.json, learned by another process, which ends with this one and where this one is stopped."""
        with (
            tempfile.TemporaryFile(dir=cache_dir()) as sample,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            learner.spool(texts, sample)
            size = sample.tell()
            part = learner.share(sample)
            what = f"training the tokenizer on {size / 1e6:,.0f} MB"
            if part < 1:
                what += f", {part:.0%} of it, since it has so many different words"
            sample.flush()
            sample.seek(0)
            asked = {
                "vocab": self.vocab,
                "specials": self.specials(),
                "share": part,
                "algorithm": self.algorithm,
                "options": self.options(),
            }
            process = subprocess.Popen(
                [sys.executable, "-P", learner.__file__, json.dumps(asked)],
                stdin=sample,
                stdout=out,
                stderr=err,
                env={PARALLEL: "true", **os.environ},
            )
            try:
                while process.poll() is None:
                    tell(what)
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(1)
            finally:
                process.kill()
                process.wait()
            out.seek(0)
            err.seek(0)
            if process.returncode:
                said = err.read().decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
                raise DataError(
                    f"training the tokenizer ended with status {process.returncode}: {said[0]}",
                    "there may be too little memory: take less text or a smaller vocabulary",
                )
            return out.read().decode()

    def cut(self, text: str, begin: int, end: int) -> int:
        place = end
        while place > begin + 1:
            # White space after something else always begins a new word, and no pattern looks back.
            place = max(text.rfind(" ", begin + 1, place), text.rfind("\n", begin + 1, place))
            if place > begin and not text[place - 1].isspace():
                return place
        return self._cut_word(text, begin, end)

    def _cut_word(self, text: str, begin: int, end: int) -> int:
        """The same where no word ends at white space: at the end of a run of the pattern, tried out."""
        window = text[begin : end + 1]
        ends = _ends(window)
        for i in range(len(ends) - 1, -1, -1):
            # What is matched near the window's end could be longer than the window.
            if ends[i] <= len(window) - _LOOKED_AHEAD and _ends(window[: ends[i]]) == ends[: i + 1]:
                return begin + ends[i]
        raise AssertionError("a run of the pattern is bounded, and the window holds many")

    def load(self, text: str) -> Codec:
        try:
            saved = strict_json.loads(text)
            plain = self._is_ours(saved)
            codec = LibraryCodec(text)
            ids = sorted(codec.ids())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise foreign(self.kind) from None
        # The number of tokens is not believed: rows of the model are picked by ids.
        specials = SpecialTokens.spelled(self.specials())
        if codec.specials != specials or ids != list(range(self.vocab)) or not plain:
            raise foreign(self.kind)
        return codec

    def _is_ours(self, saved: dict[str, Any]) -> bool:
        """Whether a tokenizer.json is, but for what was learned, one that is made now: others would change or cut
        texts."""
        made = json.loads(learner.empty(self.algorithm, self.options()).to_str())
        return rules(saved) == rules(made)


LEARNED = ("vocab", "merges", "unk_id")
"""What of a model is learned."""


def rules(file: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without what was learned."""
    model = {key: value for key, value in file["model"].items() if key not in LEARNED}
    return {**{key: value for key, value in file.items() if key != "added_tokens"}, "model": model}


def _ends(text: str) -> list[int]:
    """Where the words of a text end."""
    return [end for _, (_, end) in _words().pre_tokenize_str(text)]


@cache
def _words() -> Any:
    return learner.words()
