"""Byte pair encoding (Sennrich et al. 2016, section 3.2) over bytes (Radford et al. 2019, section 2.2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from llmspec.core import strict_json
from llmspec.core.folders import cache_dir
from llmspec.core.problems import DataError, Problem
from llmspec.parts.tokenizers import learner
from llmspec.parts.tokenizers.base import VOCAB_FIELD, Codec, Tokenizer, decode_bytes, foreign, utf8
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

_PARALLEL = "TOKENIZERS_PARALLELISM"
AT_ONCE = 200_000
"""Characters that are learned from in this process: it takes less than a second."""
_LOOKED_AHEAD = 4
"""Characters after a word that may have a say in where it ends."""
Tell = Callable[[str], None]
"""Told now and then what is being done."""
_SHAPE = {
    "truncation": None,
    "padding": None,
    "normalizer": None,
    "post_processor": None,
    "decoder": "ByteLevel",
    "model": "BPE",
}
"""What `train` makes a tokenizer of, by the type of each of its pieces: others would change or cut texts."""
_HOME = os.getpid()
"""The process that may use the library's threads: not one that was forked from it."""


class BPE(Tokenizer):
    """Byte-level byte pair encoding with GPT-2's pre-tokenizer, trained on the mixture."""

    kind: Literal["bpe"] = "bpe"
    vocab: int = VOCAB_FIELD
    """Number of ids: special tokens, 256 bytes, and one for each merge."""

    def size(self) -> int:
        return self.vocab

    def check(self) -> Iterable[Problem]:
        n = len(self.specials())
        yield from self._check_room(self.vocab, n + 256, f"its {n} special tokens and the 256 bytes")

    def train(self, texts: Iterable[str], tell: Tell = lambda what: None) -> Codec:
        from tokenizers import Tokenizer as HF

        if problems := tuple(self.check()):
            raise DataError(problems)
        texts, head, size = _checked(texts), list[str](), 0
        for text in texts:
            head.append(text)
            size += len(text)
            if size > AT_ONCE:
                tokenizer = HF.from_str(self._learned_apart(chain(head, texts), tell))
                break
        else:
            with _threads():
                tokenizer = learner.learn(head, self.vocab, self.specials())
        if (found := tokenizer.get_vocab_size()) < self.vocab:
            raise DataError(
                Problem(
                    f"the training text yields only {found} tokens, not {self.vocab}",
                    ("tokenizer", "vocab"),
                    f"vocab: {found}",
                    f"{self.vocab - found} rows of the model would never be used",
                )
            )
        return BPECodec(tokenizer)

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
            asked = {"vocab": self.vocab, "specials": self.specials(), "share": part}
            process = subprocess.Popen(
                [sys.executable, "-P", learner.__file__, json.dumps(asked)],
                stdin=sample,
                stdout=out,
                stderr=err,
                env={_PARALLEL: "true", **os.environ},
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
        from tokenizers import Tokenizer as HF

        try:
            saved = strict_json.loads(text)
            pieces = {key: saved[key] and saved[key].get("type", "?") for key in _SHAPE}
            plain = pieces == _SHAPE and _cuts_as_ours(saved)
            tokenizer = HF.from_str(text)
            codec = BPECodec(tokenizer)
            ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
        except Exception:  # the library raises bare Exceptions
            raise foreign("bpe") from None
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # of Rust: no Exception
                raise foreign("bpe") from None
            raise
        # The number of tokens is not believed: rows of the model are picked by ids.
        specials = SpecialTokens.spelled(self.specials())
        if codec.specials != specials or ids != list(range(self.vocab)) or not plain:
            raise foreign("bpe")
        return codec


def _cuts_as_ours(saved: dict[str, Any]) -> bool:
    """Whether a tokenizer.json cuts text as one that is trained now, or as those of earlier versions."""
    from tokenizers import Tokenizer as HF
    from tokenizers import models

    ours = HF(models.BPE())
    ours.pre_tokenizer = learner.cutting()
    found = saved["pre_tokenizer"]
    return bool(found == json.loads(ours.to_str())["pre_tokenizer"] or found["type"] == "ByteLevel")


def _ends(text: str) -> list[int]:
    """Where the words of a text end."""
    return [end for _, (_, end) in _words().pre_tokenize_str(text)]


@cache
def _words() -> Any:
    return learner.words()


class BPECodec:
    """A tokenizer of the `tokenizers` library whose special tokens cannot be spelled."""

    def __init__(self, tokenizer: Any) -> None:
        # Not part of tokenizer.json, so it is set whenever one is opened: text never becomes a special token.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self.vocab: int = tokenizer.get_vocab_size()
        added = tokenizer.get_added_tokens_decoder()
        self.specials = SpecialTokens.spelled({added[i].content: i for i in sorted(added)})

    @cached_property
    def _table(self) -> list[bytes]:
        """id -> bytes; special tokens have none."""
        byte_of = {character: byte for byte, character in enumerate(_alphabet())}
        table = [b""] * self.vocab
        for token, i in self._tokenizer.get_vocab(with_added_tokens=False).items():
            if token not in self.specials:
                table[i] = bytes(byte_of[c] for c in token)
        return table

    @cached_property
    def _spelled(self) -> list[bytes]:
        by_id = {i: spelling.encode() for spelling, i in self.specials.items()}
        return [by_id.get(i, piece) for i, piece in enumerate(self._table)]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        texts = list(_checked(texts))
        with _threads():
            return [found.ids for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        texts = list(_checked(texts))
        with _threads():
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(one.ids for one in found), np.int32, int(lengths.sum())), lengths

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        return decode_bytes(map((self._spelled if specials else self._table).__getitem__, ids))

    def token_bytes(self, token: int) -> bytes:
        return self._table[token]

    def to_json(self) -> str:
        return str(self._tokenizer.to_str(pretty=False))


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts themselves; raises DataError for lone surrogates, on which the library fails without a word."""
    for text in texts:
        utf8(text)
        yield text


def _alphabet() -> list[str]:
    """byte -> the visible character that stands for it in byte-level vocabularies (openai/gpt-2, encoder.py)."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


@contextmanager
def _threads() -> Iterator[None]:
    """Let the library use its threads in here, unless the user's environment says otherwise; a forked child, which has
    none of its parent's threads, would hang."""
    if _PARALLEL in os.environ:
        yield
        return
    os.environ[_PARALLEL] = "true" if os.getpid() == _HOME else "false"
    try:
        yield
    finally:
        os.environ.pop(_PARALLEL, None)
