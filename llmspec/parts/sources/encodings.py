"""Which encoding bytes that are no UTF-8 most likely have: only said to the user, nothing is decoded by a guess."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator

SAMPLE = 1 << 16
"""Bytes that are looked at."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ICONV = {
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "utf-32-le": "UTF-32LE",
    "utf-32-be": "UTF-32BE",
    "iso8859_5": "ISO-8859-5",
    "mac_roman": "MACINTOSH",
}
_NOT_TEXT = {"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf_7", "mbcs", "oem"}


def marked(sample: bytes) -> str:
    """The UTF-16 or UTF-32 that a byte-order mark at the beginning names, or ""."""
    return next((name for mark, name in _MARKS if sample.startswith(mark)), "")


def likely(sample: bytes) -> str:
    """Python's name of the encoding that `sample` (no UTF-8, or full of NULs) most likely has, or ""."""
    if found := marked(sample) or _wide(sample):
        return found
    if b"\0" in sample:
        return _wide_east_asian(sample)
    if sample.isascii():
        return ""
    scores = [(score(text), name) for name, score in _SCORES.items() if (text := _decoded(sample, name))]
    best, name = max(scores, default=(0.0, ""))
    return name if best > 0.5 else _wide_east_asian(sample)


def iconv(encoding: str) -> str:
    """The name that the command `iconv` knows an encoding by."""
    return _ICONV.get(encoding, encoding.upper().replace("_", "-"))


def check(name: str) -> str:
    """Refuse what is no encoding of text. Raises ValueError."""
    try:
        info = codecs.lookup(name)
        text = bool(getattr(info, "_is_text_encoding", True)) and info.incrementaldecoder is not None
    except (LookupError, ValueError):
        raise ValueError(
            f"`{name}` is not an encoding that Python knows; examples are utf-8, utf-16, cp1252, shift_jis, "
            "gb18030, koi8-r, euc-kr"
        ) from None
    if not text or info.name.replace("-", "_") in _NOT_TEXT:
        raise ValueError(
            f"`{name}` is not an encoding of text files; examples are utf-8, utf-16, cp1252, shift_jis, gb18030"
        )
    return name


def _wide(sample: bytes) -> str:
    """UTF-16 or UTF-32 without a mark, by where the NULs stand."""
    zero = [sample[i::4].count(0) / max(1, len(sample) // 4) for i in range(4)]
    if min(zero[1:]) > 0.4 > zero[0] or (zero[2] > 0.9 and zero[3] > 0.9):
        return "utf-32-le"
    if min(zero[:3]) > 0.4 > zero[3] or (zero[0] > 0.9 and zero[1] > 0.9):
        return "utf-32-be"
    even, odd = (zero[0] + zero[2]) / 2, (zero[1] + zero[3]) / 2
    if max(even, odd) > 0.15 and min(even, odd) < 0.05:
        return "utf-16-le" if odd > even else "utf-16-be"
    return ""


def _wide_east_asian(sample: bytes) -> str:
    """UTF-16 of Chinese or Japanese, which has few NULs: only one order of the bytes gives their letters."""
    for name in ("utf-16-le", "utf-16-be"):
        text = _decoded(sample, name)
        if text and _share(text, lambda c: _east_asian(c) or c in " \n\r\t。、，") > 0.9:
            return name
    return ""


def _decoded(sample: bytes, name: str) -> str:
    """The sample as text, a character cut off at its end left out; "" where it is not of that encoding."""
    try:
        return codecs.getincrementaldecoder(name)().decode(sample, False)
    except (UnicodeDecodeError, LookupError):
        return ""


def _east_asian(c: str) -> bool:
    return "\u3040" <= c <= "\u30ff" or "\u4e00" <= c <= "\u9fff" or "\uac00" <= c <= "\ud7a3"


def _share(text: str, is_one: Callable[[str], bool], of: Callable[[str], bool] = lambda c: True) -> float:
    among = [c for c in text if of(c)]
    return sum(map(is_one, among)) / len(among) if among else 0.0


def _foreign(c: str) -> bool:
    return c > "\x7f"


def _japanese(text: str) -> float:
    """Kana make about half of Japanese; half-width ones are how other encodings look."""
    kana = _share(text, lambda c: "\u3040" <= c <= "\u30ff", _foreign)
    known = _share(text, lambda c: _east_asian(c) or "\u3000" <= c <= "\u303f" or "\uff01" <= c <= "\uff5e", _foreign)
    return known * (0.99 if kana > 0.2 else 0.2)


def _korean(text: str) -> float:
    return 0.98 * _share(text, lambda c: "\uac00" <= c <= "\ud7a3" or c in "。、·“”‘’", _foreign)


def _chinese(encoding: str, first: int, last: int) -> Callable[[str], float]:
    """Most of what is written is of the frequent characters, which Chinese encodings have in a block of their own."""

    def frequent(c: str) -> bool:
        raw = c.encode(encoding, "ignore")
        return len(raw) == 2 and (first <= raw[0] <= last) and "\u4e00" <= c <= "\u9fff"

    def score(text: str) -> float:
        han = _share(text, lambda c: "\u4e00" <= c <= "\u9fff", _foreign)
        return 0.97 * _share(text, frequent, lambda c: "\u4e00" <= c <= "\u9fff") if han > 0.6 else 0.0

    return score


def _words(text: str) -> Iterator[str]:
    """Words that hold a letter beyond ASCII."""
    letters = "".join(c if c.isalpha() else " " for c in text)
    return (word for word in letters.split() if not word.isascii())


def _alphabet(first: str, last: str, frequent: str) -> Callable[[str], float]:
    """Words of one alphabet alone, small but for the first letter, and mostly of its frequent letters."""
    own = lambda c: first <= c <= last

    def score(text: str) -> float:
        words = list(_words(text))
        if not words or _share(text, own, _foreign) < 0.7:
            return 0.0
        fine = [w for w in words if all(map(own, w)) and (w[1:].islower() or len(w) == 1)]
        usual = _share(text.lower(), lambda c: c in frequent, own)
        return 0.96 * len(fine) / len(words) * min(1.0, usual / 0.5)

    return score


def _western(signs_alone: float) -> Callable[[str], float]:
    """Accented letters stand among plain ones, few to a word; signs and controls are rare.

    `signs_alone`: what a text scores whose only foreign characters are quotation marks and dashes.
    """
    common = "àáâãäåæçèéêëìíîïñòóôõöøùúûüýßœ"

    def score(text: str) -> float:
        words = list(_words(text))
        fine = [
            w
            for w in words
            if all(c.isascii() or c.lower() in common for c in w)
            and 3 * sum(not c.isascii() for c in w) <= 2 + len(w)
            and (w[1:].islower() or w.isupper())
        ]
        signs = _share(text, lambda c: c in "“”‘’–—…€«»°£§·©®\u00a0´•™¿¡" or c.isalpha(), _foreign)
        return 0.9 * signs * (len(fine) / len(words) if words else signs_alone)

    return score


_russian = _alphabet("\u0400", "\u045f", "оеаинтсрвл")
_SCORES: dict[str, Callable[[str], float]] = {
    "cp932": _japanese,
    "euc_jp": _japanese,
    "cp949": _korean,
    "gb18030": _chinese("gb18030", 0xB0, 0xD7),
    "big5": _chinese("big5", 0xA4, 0xC6),
    "koi8_r": _russian,
    "cp1251": _russian,
    "iso8859_5": _russian,
    "cp866": _russian,
    "cp1253": _alphabet("\u0370", "\u03ff", "αοιετσηρν"),
    "cp1252": _western(0.9),
    "mac_roman": _western(0.0),
    "cp850": _western(0.0),
}
