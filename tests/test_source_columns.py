"""Tables whose columns the spec names, and fields that end before what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_source_formats import read, records, said

from llmspec.parts.sources import TABLE


def test_the_spec_names_columns_that_no_row_names(tmp_path: Path) -> None:
    table = 'as\t"if | like\n\nbook\tpages; bound | reserve'
    for name in ("words.txt", "words.tsv", "words"):
        found = read(tmp_path, name, table.encode(), columns=("word", "meaning"))
        assert [(d.record, d.item) for d in found] == [
            ({"word": "as", "meaning": '"if | like'}, "1"),
            ({"word": "book", "meaning": "pages; bound | reserve"}, "3"),
        ]
    rows = records(tmp_path, "words.csv", 'a,"b, c"\r\nd,e\r\n', columns=("x", "y"))
    assert rows == [{"x": "a", "y": "b, c"}, {"x": "d", "y": "e"}]
    assert "1 field, and the header 2" in said(tmp_path, "short.txt", b"a\tb\nc\n", columns=("x", "y"))


def test_fields_end_before_what_the_spec_says() -> None:
    source = TABLE["files"](path="*", cut_at={"meaning": (" | ", "; "), "word": "_"}, replace={"-": "_"})  # type: ignore
    cut = source.cleaned({"word": "well-read", "meaning": "having read much; learned | wise", "more": "a; b"})
    assert cut == {"word": "well", "meaning": "having read much", "more": "a; b"}
    assert "meaning" in source.fields(dialogues=False), "so that a name that no record has is told"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"columns": ("a", "a")}, "names `a` twice"),
        ({"columns": ("a", " ")}, "called by a name"),
        ({"columns": ("a",), "join": True}, "keep one"),
        ({"cut_at": {"a": ("",)}}, "names text that stands somewhere"),
    ],
)
def test_columns_and_ends_that_mean_nothing(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TABLE["files"](path="*", **settings)  # type: ignore
