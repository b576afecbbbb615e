"""What is read of the user's files: tables, records, compressed ones, encodings, line ends; and what is refused."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmspec.core.problems import DataError
from llmspec.data.fetch import Fetch
from llmspec.parts.sources import TABLE, Document, encodings, opening, readers
from llmspec.parts.sources.no_text import NO_TEXT
from llmspec.parts.sources.notes import Notes


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPEC_CACHE", str(tmp_path / ".cache"))


def documents(folder: Path, path: str = "*", notes: Notes | None = None, **more: Any) -> list[Document]:
    return list(TABLE["files"](path=path, **more).documents(Fetch(folder).noting(notes or Notes())))  # type: ignore


def read(folder: Path, name: str, raw: bytes, **more: Any) -> list[Document]:
    (folder / name).write_bytes(raw)
    return documents(folder, name, **more)


def records(folder: Path, name: str, text: str, **more: Any) -> list[Any]:
    return [d.record for d in read(folder, name, text.encode(), **more)]


def said(folder: Path, name: str, raw: bytes, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, name, raw, **more)
    return str(caught.value)


# -- tables ----------------------------------------------------------------------------------------------------------


def test_rows_are_records(tmp_path: Path) -> None:
    text = '\ufeffq,a\r\n"say ""hi"", you",1\r\n\r\n"two\r\nlines",\r\n'
    found = read(tmp_path, "t.csv", text.encode())
    assert found == [
        Document("t.csv", "", {"q": 'say "hi", you', "a": "1"}, "2"),
        Document("t.csv", "", {"q": "two\nlines", "a": ""}, "4"),
    ]
    assert records(tmp_path, "t.tsv", 'q\ta\nx, y\t"b"\n') == [{"q": "x, y", "a": "b"}]
    assert records(tmp_path, "old.csv", "q,a\rx,y\r") == [{"q": "x", "a": "y"}]
    assert records(tmp_path, "long.csv", "q,a\n" + "x" * 300_000 + ",y\n")[0]["a"] == "y"
    before = csv.field_size_limit()
    notes = Notes()
    assert records(tmp_path, "s.csv", ";q\n0;x\n", notes=notes) == [{"q": "x"}]
    assert list(notes.said()) == [
        "read tables with semicolons between the fields (1): s.csv",
        "left out columns without a name (1): s.csv",
    ]
    assert csv.field_size_limit() == before
    assert read(tmp_path, "e.csv", b"sep=;\r\nq;a\r\n1;2\r\n") == [Document("e.csv", "", {"q": "1", "a": "2"}, "3")]
    assert records(tmp_path, "none.csv", "q,a\n") == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)] * 2),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([",", "\t"]),
)
def test_what_csv_writes_is_read(tmp_path: Path, rows: list[Any], delimiter: str) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("q", "a"), *rows])
    found = records(tmp_path, "t.csv" if delimiter == "," else "t.tsv", out.getvalue())
    assert found == [{"q": q, "a": a} for q, a in rows]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("q,a\nx\ny,z\nu,v,w\n", "t.csv:2:1: this row has 1 field, and the header 2"),
        ('q,a\n1,2\n"x\n\n3,4\n', "t.csv:3:1: a quoted field does not end"),
        ('q,a\n1,"x"y\n', "t.csv:2:1: a field that"),
        ("q,q\n1,2\n", "names `q` twice"),
        ("1,2\n3,4\n", "`1` is not a name"),
        (",\n1,2\n", "it is empty"),
        ("x" * 200 + ",b\n1,2\n", "is not a name"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in said(tmp_path, "t.csv", text.encode())


# -- JSON ------------------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS | st.floats(allow_nan=False),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(WORDS, v, max_size=3),
    max_leaves=6,
)
RECORDS = st.lists(st.dictionaries(WORDS, VALUES, min_size=1, max_size=3), max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(RECORDS, st.sampled_from([None, 1]), st.integers(1, 40), st.booleans())
def test_json_is_read_in_pieces_of_any_size(
    tmp_path: Path, written: list[Any], indent: Any, size: int, as_map: bool
) -> None:
    value: Any = {f"k{i}": record for i, record in enumerate(written)} if as_map else written
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "PIECE", size)
        text = json.dumps(value, indent=indent, ensure_ascii=bool(size % 2))
        assert records(tmp_path, "r.json", text) == written
        assert records(tmp_path, "r.jsonl", "".join(json.dumps(r) + "\r\n" for r in written)) == written
        assert records(tmp_path, "old.jsonl", "\r".join(json.dumps(r) for r in written)) == written


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[{"a": 1},\n {"a": tru}]', "r.json:2:8: not JSON: Expecting value"),
        ('[{"a": 1}', "ends too early"),
        ('[{"a": 1},]', "a comma before `]`"),
        ('[{"a": 1} {"a": 2}]', "expecting `,` or `]`"),
        ('[{"a": 1}] x', "more after"),
        ('{"a": {"b": 1}, c: {}}', "property name"),
        ('{"a": "b"}\n{"a": "c"}', "ends with .jsonl"),
        ("plain words", "not JSON: Expecting value"),
        ('"text"', "neither a list nor a map"),
        ('[{"a": "b', "Unterminated"),
        ('[{"a": ' + "[" * 100_000, "cannot be read as JSON"),
        ('[{"a": 1}, 7]', "entry `1`: a record is a map"),
        ("[" + "9" * 5000 + "]", "cannot be read as JSON"),
        ('{"data set": [{"a": 1}]}', """jq '.["data set"]' r.json >"""),
    ],
)
def test_what_is_wrong_with_json_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in said(tmp_path, "r.json", text.encode())


def test_records_without_an_end_are_refused_before_memory_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (
        opening,
        __import__("llmspec.parts.sources.json_files", fromlist=["x"]),
        __import__("llmspec.parts.sources.tables", fromlist=["x"]),
    ):
        monkeypatch.setattr(module, "LONGEST", 1 << 20)
    long = b"x" * (5 << 20)
    assert "a record of more than" in said(tmp_path, "a.jsonl", b'{"a": "' + long)
    assert "a record of more than" in said(tmp_path, "a.json", b'[{"a": "' + long)
    assert "a record of more than" in said(tmp_path, "a.csv", b"q,a\n" + long)
    assert "a record of more than" in said(tmp_path, "b.csv", b'q,a\n"' + b"x\n" * (2 << 20))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    raw=st.binary(max_size=60) | st.text("[]{}:,\"'\\\r\n\t;ue0aé ", max_size=40).map(str.encode),
    suffix=st.sampled_from([".txt", ".csv", ".tsv", ".json", ".jsonl", ".gz", ".bz2", ".xz", ".zst"]),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-16-le", "shift_jis", "latin-1", "utf-32"]),
)
def test_whatever_a_file_holds_there_are_documents_or_a_sentence(
    tmp_path: Path, raw: bytes, suffix: str, encoding: str
) -> None:
    try:
        for document in read(tmp_path, "f" + suffix, raw, encoding=encoding):
            assert "\0" not in document.text and "\r" not in document.text
    except DataError as error:
        assert f"f{suffix}" in str(error) and all(len(line) < 500 for line in str(error).splitlines())


# -- compressed ------------------------------------------------------------------------------------------------------

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}
INSIDE = {
    ".txt": "some\r\ntext\n",
    ".jsonl": '{"a": "x"}\n{"a": "y"}\n',
    ".json": '[{"a": "x"}]',
    ".csv": "a\nx\n",
    ".tsv": "a\tb\nx\ty\n",
    ".md": "# text\n",
}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("inside", INSIDE)
def test_every_format_in_every_compression(tmp_path: Path, packed: str, inside: str) -> None:
    raw = INSIDE[inside].encode()
    plain = [d._replace(name="") for d in read(tmp_path, "f" + inside, raw)]
    half = len(raw) // 2
    several = PACK[packed](raw[:half]) + PACK[packed](raw[half:])  # two members, as `cat a.gz b.gz` makes
    for name, data in (("one", PACK[packed](raw)), ("two", several)):
        assert [d._replace(name="") for d in read(tmp_path, name + inside + packed, data)] == plain


@pytest.mark.parametrize("packed", PACK)
def test_damaged_compressed_files_are_sentences(tmp_path: Path, packed: str) -> None:
    whole = PACK[packed](os.urandom(3000).hex().encode())
    for name, raw in (
        ("cut", whole[:-20]),
        ("head", whole[:2]),
        ("plain", b"some text"),
        ("after", whole + b"garbage"),
    ):
        text = said(tmp_path, f"{name}.txt{packed}", raw)
        assert f"{name}.txt{packed}" in text and ("damaged" in text or "ends too early" in text), text
    for at in range(0, len(whole), max(1, len(whole) // 25)):
        raw = whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]
        try:
            read(tmp_path, "flip.txt" + packed, raw)
        except DataError as error:
            assert "flip.txt" in str(error)
    assert read(tmp_path, "none.txt" + packed, PACK[packed](b"")) == []


@pytest.mark.parametrize("packed", PACK)
def test_bombs_are_refused(tmp_path: Path, packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "FREE", 1 << 18)
    bomb = PACK[packed](b"word " * (1 << 19))
    assert "unpacks to more than 200 times its size" in said(tmp_path, "b.txt" + packed, bomb)


def test_without_its_library_zstandard_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    assert "pip install zstandard" in said(tmp_path, "a.txt.zst", PACK[".zst"](b"text"))


# -- what is no text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", sorted(NO_TEXT))
def test_formats_that_are_no_text_are_refused_by_name(tmp_path: Path, suffix: str) -> None:
    for name in (f"a b{suffix}", f"a b{suffix.upper()}", f"a b{suffix}.gz"):
        text = said(tmp_path, name, gzip.compress(b"fine text") if name.endswith(".gz") else b"fine text")
        assert f"{name} is " in text and "only text is read" in text and "{" not in text


@pytest.mark.parametrize(("begin", "what"), opening._MAGIC.items())
def test_formats_that_are_no_text_are_known_by_their_first_bytes(tmp_path: Path, begin: bytes, what: str) -> None:
    assert what in said(tmp_path, "a.txt", begin + b" and more")


def test_markup_is_read_and_said(tmp_path: Path) -> None:
    notes = Notes()
    assert read(tmp_path, "a.html", b"<p>text</p>", notes=notes)[0].text == "<p>text</p>"
    assert list(notes.said()) == ["read files of markup with their tags (1): a.html"]


# -- encodings and line ends -----------------------------------------------------------------------------------------

TEXTS = {
    "ja": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗い所で泣いていた。\n",
    "zh": "今天天气很好，我们去公园散步，然后回家吃饭。这个问题很复杂，需要大家一起讨论。\n",
    "ko": "나는 오늘 학교에 갔다. 날씨가 매우 좋았고 친구들과 함께 점심을 먹었다.\n",
    "ru": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n",
    "fr": "C’était à l’été où les élèves français étudiaient « la forêt ». Ça coûte 5 €, où êtes-vous?\n",
    "en": "Plain text, and “quotation marks” – a common case – after a while. " * 3 + "\n",
}
LIKELY = [
    ("ja", "shift_jis", "cp932"),
    ("ja", "euc_jp", "euc_jp"),
    ("zh", "gb18030", "gb18030"),
    ("ko", "euc_kr", "cp949"),
    ("ru", "koi8_r", "koi8_r"),
    ("ru", "cp1251", "cp1251"),
    ("fr", "cp1252", "cp1252"),
    ("en", "cp1252", "cp1252"),
    *(
        (language, f"utf-{bits}{order}", f"utf-{bits}{order}")
        for language in ("ja", "zh", "ru", "en")
        for bits in (16, 32)
        for order in ("", "-le", "-be")
    ),
]


@pytest.mark.parametrize(("language", "written", "named"), LIKELY)
@pytest.mark.parametrize("times", [1, 3000])
def test_the_likely_encoding_is_named_and_its_key_reads_the_file(
    tmp_path: Path, language: str, written: str, named: str, times: int
) -> None:
    text = "".join(f"{i}: {TEXTS[language]}" for i in range(times))
    raw, name = text.encode(written), "it's.txt"
    message = said(tmp_path, name, raw)
    assert f"iconv -f {encodings.iconv(named)} -t UTF-8 {shlex.quote(str(tmp_path / name))} > " in message, message
    if times == 1:
        assert f"`encoding: {named.replace('_', '-')}`" in message
        (document,) = read(tmp_path, name, raw, encoding=named.replace("_", "-"))
        assert document.text == text


def test_the_command_that_is_printed_converts_the_file(tmp_path: Path) -> None:
    import shutil
    import subprocess

    if not shutil.which("iconv"):
        pytest.skip("no iconv here")
    message = said(tmp_path, "it's $HOME.txt", TEXTS["fr"].encode("cp1252"))
    command = message[message.index("iconv -f") :].splitlines()[0]
    subprocess.run(command, shell=True, check=True)
    assert (tmp_path / "it's $HOME.txt.utf8").read_text("utf-8") == TEXTS["fr"]


def test_what_cannot_be_told_is_not_guessed(tmp_path: Path) -> None:
    assert "its encoding is unclear" in said(tmp_path, "a.txt", b"hello \xff world")
    assert encodings.likely(b"plain") == encodings.likely(b"") == ""
    text = said(tmp_path, "a.txt", b"first\nsecond \0 third")
    assert text.startswith("a.txt:2:8: a NUL character") and "binary or damaged" in text
    late = b"word\n" * 500_000 + b"caf\xe9 and more\n"
    assert said(tmp_path, "a.txt", late).startswith("a.txt:500001:4: not UTF-8: byte 0xe9")


def test_no_way_leads_a_nul_into_the_text(tmp_path: Path) -> None:
    for raw, name in (
        (b'{"a": "x"}\n{"a": [{"b": "x\\u0000"}]}', "r.jsonl"),
        (b'[{"a": "x"}, {"b\\u0000": 1}]', "r.json"),
        (b"q,a\nx,\0\n", "t.csv"),
        (b"x\0", "t.txt"),
        ("x\0".encode("utf-16"), "u.txt"),
    ):
        assert "a NUL character" in said(tmp_path, name, raw, encoding="utf-16" if name == "u.txt" else "utf-8")
    assert len(read(tmp_path, "r.jsonl", b'{"a": "\\\\u0000"}')) == 1  # a backslash, and letters
    for settings_ in ({"documents": ("a\0b",)}, {"records": ({"a": ("x", {"y": "\0"})},)}):
        with pytest.raises(ValueError, match="NUL"):
            TABLE["inline"](**settings_)


def test_an_encoding_is_told_from_what_comes_before_the_fault(tmp_path: Path) -> None:
    message = said(tmp_path, "a.txt", b"first\nun caf\xe9")
    assert message.startswith("a.txt:2:7: not UTF-8: byte 0xe9; it looks like CP1252\n    | un caf\\xe9")


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("utf-8", True),
        ("UTF8", True),
        ("latin1", True),
        ("shift-jis", True),
        ("utf-9", False),
        ("hex", False),
        ("rot13", False),
        ("idna", False),
        ("", False),
        ("a\0b", False),
        ("unicode_escape", False),
    ],
)
def test_an_encoding_is_checked_without_data(name: str, fine: bool) -> None:
    if fine:
        TABLE["files"](path="x", encoding=name)  # type: ignore[call-arg]
        return
    with pytest.raises(ValueError, match="encoding"):
        TABLE["files"](path="x", encoding=name)  # type: ignore[call-arg]


def test_another_encoding_is_another_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    prints = [
        TABLE["files"](path="a.txt", encoding=name).fingerprint(Fetch(tmp_path))  # type: ignore[call-arg]
        for name in ("utf-8", "cp1252", "cp850")
    ]
    assert all(a != b for i, a in enumerate(prints) for b in prints[:i])
    assert read(tmp_path, "a.txt", b"caf\xe9", encoding="cp1252")[0].text == "café"
    assert "not ascii: byte 0xe9" in said(tmp_path, "a.txt", b"caf\xe9", encoding="ascii")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), min_size=1, max_size=40),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.integers(1, 9),
)
def test_every_line_end_is_a_newline_wherever_pieces_begin(tmp_path: Path, text: str, end: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "PIECE", size)
        patch.setattr(readers, "STRETCH", 7)
        text = "x" + text
        stretches = read(tmp_path, "a.txt", text.replace("\n", end).encode())
        assert "".join(d.text for d in stretches) == text.replace("\n", end).replace("\r\n", "\n").replace("\r", "\n")
        assert [d.more for d in stretches] == [True] * (len(stretches) - 1) + [False]
