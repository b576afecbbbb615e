"""Codecs of the `tokenizers` library, whoever made them: special tokens are never spelled by text."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from llmspec.core.heap import give_back
from llmspec.core.problems import DataError
from llmspec.parts.tokenizers.base import Continuing, Following, decode_bytes, utf8
from llmspec.parts.tokenizers.special_tokens import SpecialTokens

if TYPE_CHECKING:
    import numpy as np

PARALLEL = "TOKENIZERS_PARALLELISM"
_HOME = os.getpid()
"""The process that may use the library's threads: not one that was forked from it."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How vocabularies of SentencePiece spell a byte."""
_AROUND = 200
"""Characters on either side of a cut by which it is tried whether tokens end there."""
_TRIED = 200
"""Places at which a cut is tried, at most."""


def opened(text: str) -> Any:
    """The library's tokenizer of a tokenizer.json, which neither cuts nor fills texts. Raises ValueError."""
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(text)
    except BaseException as error:
        if isinstance(error, Exception) or _of_the_library(error):
            raise ValueError(str(error)) from None
        raise
    give_back()  # the library frees twice as much as it keeps
    found.no_truncation()
    found.no_padding()
    # Not part of tokenizer.json, so it is set whenever one is opened: text never becomes a special token.
    found.encode_special_tokens = True
    return found


def _of_the_library(error: BaseException) -> bool:
    """Whether the library itself fails: it raises bare Exceptions, and Rust's panics, which are no Exceptions."""
    return type(error) is Exception or type(error).__name__ == "PanicException"


def _damaged(why: object) -> DataError:
    return DataError(
        f"the tokenizer is damaged: the tokenizers library fails on it ({str(why)[:200]})",
        hint="take its files anew, whole",
        consequence="text would have no ids",
    )


def _asked(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a method of the library answers. Raises DataError where the library itself fails: it looks at much of a file
    only when it is asked."""
    try:
        return run(*args, **kwargs)
    except BaseException as error:
        if _of_the_library(error):
            raise _damaged(error) from None
        raise


def _changed(text: str) -> Any:
    """`opened`, for what was made of a file that was opened before. Raises DataError."""
    try:
        return opened(text)
    except ValueError as error:
        raise _damaged(error) from None


class LibraryCodec:
    """A tokenizer.json, which stays as it is, and what its special tokens mean.

    `meanings` is given spelling -> id of the special tokens. Raises ValueError where the library does not read it.
    """

    def __init__(
        self,
        text: str,
        meanings: Callable[[Mapping[str, int]], SpecialTokens] = SpecialTokens.spelled,
        named: Sequence[str] = (),
    ) -> None:
        """`named` are further tokens that text is not to become, though the file does not call them special."""
        self._utf8 = text.encode()  # of a large vocabulary a text takes three times as much
        self._tokenizer = tokenizer = opened(text)
        added = tokenizer.get_added_tokens_decoder()
        special = {token.content for token in added.values() if token.special}
        if more := [spelling for spelling in named if spelling not in special and self.knows(spelling)]:
            from tokenizers import AddedToken

            old = {token.content: token for token in added.values()}
            tokenizer.add_special_tokens(
                [_special(old.get(spelling) or AddedToken(spelling, normalized=False)) for spelling in more]
            )
            added = tokenizer.get_added_tokens_decoder()
        ids = {added[i].content: i for i in sorted(added) if added[i].special}
        self.specials = meanings(ids)
        if tokenizer.post_processor is not None:
            try:
                before, after = self._frame()
            except DataError as error:
                raise ValueError(error.problems[0].message) from None
            self.specials = replace(self.specials, before=before, after=after)
        self.vocab = self._count()
        self._reserved = frozenset(ids.values()) - {self.specials.unk}
        self._bytes = dict[int, bytes]()

    def ids(self) -> Iterable[int]:
        """All ids that stand for something."""
        return self._tokenizer.get_vocab(with_added_tokens=True).values()  # type: ignore[no-any-return]

    def _count(self) -> int:
        """One more than the highest id."""
        many = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if None not in map(self._tokenizer.id_to_token, range(many)):  # without the map, which is tens of megabytes
            return int(many)
        found = 1 + max(chain(self.ids(), [-1]))
        give_back()
        return found

    def knows(self, spelling: str) -> bool:
        """Whether a token is spelled so."""
        return self._tokenizer.token_to_id(spelling) is not None

    def _frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens that stand before and behind a text that is read as a whole, tried on one."""
        found = _asked(self._tokenizer.encode, "a")
        words = [i for i, special in enumerate(found.special_tokens_mask) if not special]
        begin, end = (words[0], words[-1] + 1) if words else (len(found.ids), len(found.ids))
        return tuple(found.ids[:begin]), tuple(found.ids[end:])

    # -- what the file is made of --------------------------------------------------------------------------------
    @cached_property
    def _decoders(self) -> list[str]:
        return [part["type"] for part in _pieces(self._tokenizer.decoder, "decoders")]

    @cached_property
    def reversible(self) -> bool:
        """Whether it maps all bytes and changes no text: byte-level, without a normaliser and a space of its own."""
        cutting = _pieces(self._tokenizer.pre_tokenizer, "pretokenizers")
        kinds = {part["type"] for part in cutting}
        spaced = any(part.get("add_prefix_space") or part.get("behavior") == "Removed" for part in cutting)
        known = self._tokenizer.get_vocab(with_added_tokens=False)
        stripping = any(t.lstrip or t.rstrip for t in self._tokenizer.get_added_tokens_decoder().values())
        return (
            self._by_bytes
            and self._tokenizer.normalizer is None
            and "ByteLevel" in kinds
            and kinds <= {"ByteLevel", "Split", "Digits"}
            and not spaced
            and not stripping
            and all(character in known for character in alphabet())
        )

    # -- text to ids -----------------------------------------------------------------------------------------------
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(ids) for ids in self._encoded(texts)]

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        found = self._encoded(texts)
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.fromiter(chain.from_iterable(found), np.int32, int(lengths.sum())), lengths

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        texts = list(checked(texts))
        with threads():
            whole = _asked(self._tokenizer.encode_batch_fast, texts, add_special_tokens=False)
            found = [one.ids for one in whole]
            for kind, twin in self._twins.items():
                if twin is not None and (later := [i for i, text in enumerate(texts) if type(text) is kind]):
                    again = _asked(twin.encode_batch_fast, [texts[i] for i in later], add_special_tokens=False)
                    for i, one in zip(later, again, strict=True):
                        found[i] = one.ids
            for i, ids in enumerate(found):
                if not self._reserved.isdisjoint(ids):
                    found[i] = self._unspelled(texts[i])
        return found

    @cached_property
    def _twins(self) -> dict[type[str], Any]:
        """The tokenizers of text that does not begin a sequence, where they are others: by the kind of text."""
        cutting = _pieces(self._tokenizer.pre_tokenizer, "pretokenizers")
        first = any(part["type"] == "Metaspace" and part.get("prepend_scheme") == "first" for part in cutting)
        spaced = first or any(
            part.get("prepend_scheme") == "always" or part.get("add_prefix_space") for part in cutting
        )
        spaced = spaced or any(p["type"] == "Prepend" for p in _pieces(self._tokenizer.normalizer, "normalizers"))
        return {
            Following: _changed(_without_spaces(self._utf8.decode(), ("first",))) if first else None,
            Continuing: _changed(_without_spaces(self._utf8.decode(), ("first", "always"))) if spaced else None,
        }

    def _unspelled(self, text: str) -> list[int]:
        """Ids of a text of which the model itself would make a special token: those without such pieces."""
        tokenizer, ids = self._without_specials[type(text) if type(text) in self._twins else str]
        return [ids[i] for i in _asked(tokenizer.encode, str(text), add_special_tokens=False).ids]

    @cached_property
    def _without_specials(self) -> dict[type[str], tuple[Any, dict[int, int]]]:
        """By the kind of text: a tokenizer whose vocabulary lacks the special tokens, and its ids as ours."""
        ours = self._tokenizer.get_vocab(with_added_tokens=True)
        names = {i: spelling for spelling, i in ours.items()}
        dropped = {names[i] for i in self._reserved if i in names}
        found: dict[type[str], tuple[Any, dict[int, int]]] = {}
        kinds: list[type[str]] = [str, *self._twins]
        for kind in kinds:
            source = self._twins.get(kind) or self._tokenizer
            changed = _changed(json.dumps(_without(json.loads(source.to_str()), dropped), ensure_ascii=False))
            found[kind] = (changed, {i: ours[name] for name, i in changed.get_vocab(with_added_tokens=True).items()})
        return found

    def cut(self, text: str, begin: int, end: int) -> int:
        """The last place in (begin, end] where both parts have the tokens of the whole, as a look around it shows."""
        places = [m.start() for m in re.finditer(r"(?<=\S)\s", text[max(begin + 1, end - 4096) : end + 1])]
        offset = max(begin + 1, end - 4096)
        spaces = [offset + at for at in reversed(places)]
        for place in chain(spaces[:_TRIED], range(end, max(begin, end - _TRIED), -1)):
            if begin < place <= end and self._parts_at(
                text[max(begin, place - _AROUND) : place + _AROUND], place, begin
            ):
                return place
        return end

    def _parts_at(self, window: str, place: int, begin: int) -> bool:
        left = min(place - begin, _AROUND)
        whole, one, two = self.encode([Continuing(window), Continuing(window[:left]), Continuing(window[left:])])
        return whole == one + two

    # -- ids to text -----------------------------------------------------------------------------------------------
    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        if self._by_bytes:
            spell = self._spelled if specials else self.token_bytes
            return decode_bytes(spell(int(i)) for i in ids)
        return str(_asked(self._tokenizer.decode, [int(i) for i in ids], skip_special_tokens=not specials))

    @cached_property
    def _by_bytes(self) -> bool:
        return self._decoders == ["ByteLevel"]

    def _spelled(self, token: int) -> bytes:
        return self._names[token].encode() if token in self._names else self.token_bytes(token)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {token: spelling for spelling, token in self.specials.items()}

    def token_bytes(self, token: int, begins: bool = False) -> bytes:
        if begins and not self._by_bytes and not self._spells_a_byte(token):
            return self.decode([token]).encode()
        if token not in self._bytes:
            name = None if token in self._names else self._tokenizer.id_to_token(token)
            self._bytes[token] = b"" if name is None else self._adds(name)
        return self._bytes[token]

    def _spells_a_byte(self, token: int) -> bool:
        return (
            "ByteFallback" in self._decoders and _BYTE.fullmatch(self._tokenizer.id_to_token(token) or "") is not None
        )

    def _adds(self, name: str) -> bytes:
        """The bytes of a token's text behind other text."""
        if "ByteLevel" in self._decoders:
            values = bytes_of_alphabet()
            known = [values.get(character) for character in name]
            return name.encode() if None in known else bytes(v for v in known if v is not None)
        if "ByteFallback" in self._decoders and (byte := _BYTE.fullmatch(name)):
            return bytes((int(byte[1], 16),))
        if "BPEDecoder" in self._decoders:
            parts = _pieces(self._tokenizer.decoder, "decoders")
            suffix = parts[self._decoders.index("BPEDecoder")]["suffix"]
            return name.replace(suffix, " ").encode()
        decoder = self._tokenizer.decoder
        if decoder is None:
            return f" {name}".encode()
        before, whole = str(_asked(decoder.decode, ["a"])), str(_asked(decoder.decode, ["a", name]))
        return (whole.removeprefix(before) if whole.startswith(before) else whole).encode()

    def to_json(self) -> str:
        return self._utf8.decode()


def _special(token: Any) -> Any:
    """The same token, called special."""
    from tokenizers import AddedToken

    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


def _pieces(part: Any, inner: str) -> list[dict[str, Any]]:
    """`_parts` of a piece of the library."""
    return [] if part is None else _parts(json.loads(part.__getstate__()), inner)


def _parts(part: Any, inner: str) -> list[dict[str, Any]]:
    """The pieces that a normaliser, pre-tokenizer or decoder is a sequence of; itself where it is none."""
    if not part:
        return []
    return [piece for one in part[inner] for piece in _parts(one, inner)] if part["type"] == "Sequence" else [part]


def _without_spaces(text: str, schemes: tuple[str, ...]) -> str:
    """A tokenizer.json that puts no space before texts: of those that do so in these cases."""
    file = json.loads(text)
    for part in _parts(file["pre_tokenizer"], "pretokenizers"):
        if part.get("prepend_scheme") in schemes:
            part["prepend_scheme"] = "never"
        if "always" in schemes and "add_prefix_space" in part:
            part["add_prefix_space"] = False
    if "always" in schemes and file["normalizer"]:
        kept = [part for part in _parts(file["normalizer"], "normalizers") if part["type"] != "Prepend"]
        file["normalizer"] = {"type": "Sequence", "normalizers": kept}
    return json.dumps(file, ensure_ascii=False)


def _without(file: dict[str, Any], dropped: set[str]) -> dict[str, Any]:
    """A tokenizer.json whose vocabulary lacks some tokens, the others numbered anew."""
    model = file["model"]
    if isinstance(model["vocab"], list):  # Unigram: pairs of piece and score, in the order of ids
        unknown = model.get("unk_id")
        kept = [pair for i, pair in enumerate(model["vocab"]) if pair[0] not in dropped or i == unknown]
        if unknown is not None:
            model["unk_id"] = kept.index(model["vocab"][unknown])
        model["vocab"] = kept
    else:
        kept_tokens = [token for token in model["vocab"] if token not in dropped]
        model["vocab"] = {token: i for i, token in enumerate(kept_tokens)}
        if model.get("merges"):
            pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
            model["merges"] = [pair for pair in pairs if not dropped & {*pair, "".join(pair)}]
    file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] not in dropped]
    file["post_processor"] = None
    return file


# -- bytes -----------------------------------------------------------------------------------------------------------
def alphabet() -> list[str]:
    """byte -> the visible character that stands for it in byte-level vocabularies (openai/gpt-2, encoder.py)."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in visible else next(spare)) for byte in range(256)]


_VALUES = dict[str, int]()


def bytes_of_alphabet() -> dict[str, int]:
    """The same the other way round."""
    if not _VALUES:
        _VALUES.update({character: byte for byte, character in enumerate(alphabet())})
    return _VALUES


def checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts themselves; raises DataError for lone surrogates, on which the library fails without a word."""
    for text in texts:
        utf8(text)
        yield text


@contextmanager
def threads() -> Iterator[None]:
    """Let the library use its threads in here, unless the user's environment says otherwise; a forked child, which has
    none of its parent's threads, would hang."""
    if PARALLEL in os.environ:
        yield
        return
    os.environ[PARALLEL] = "true" if os.getpid() == _HOME else "false"
    try:
        yield
    finally:
        os.environ.pop(PARALLEL, None)
