"""Sentences as CoNLL has them: a word a line, its tag in the last column, an empty line between two."""

from __future__ import annotations

from collections.abc import Iterator

from llmspec.core.problems import Mark, Problem
from llmspec.parts.sources.base import Document
from llmspec.parts.sources.opening import Text, lines

SUFFIXES = (".conll", ".iob", ".iob2", ".bio")
BETWEEN = "-DOCSTART-"
"""What stands in place of a word between documents (Tjong Kim Sang & De Meulder 2003)."""


def read_conll(text: Text) -> Iterator[Document]:
    """Every sentence a record of `tokens` and `tags`; columns are set apart by white space."""
    words, tags, begun = list[str](), list[str](), 0
    for number, line in enumerate(lines(text), 1):
        columns = line.split()
        if len(columns) == 1 and columns[0] != BETWEEN:
            text.problems.add(
                Problem(
                    "a line holds one column, a word without a tag",
                    hint="write a word, white space and its tag, such as `Rome B-LOC`",
                    consequence="the words behind it would have the tags of others",
                    mark=Mark(text.name, number, 1, line[:100]),
                )
            )
        elif columns and columns[0] != BETWEEN:
            begun = begun or number
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            yield Document(text.name, record={"tokens": words, "tags": tags}, item=str(begun))
            words, tags, begun = [], [], 0
    if words:
        yield Document(text.name, record={"tokens": words, "tags": tags}, item=str(begun))
