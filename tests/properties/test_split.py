"""What trains and what validates: a split loses nothing, keeps the order, and takes about its share."""

import pytest
from documents import split
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspec.core.problems import DataError
from llmspec.data.reading import thinned
from llmspec.data.split import Shaped
from llmspec.parts.sources import Document, Validation

quick = settings(deadline=None, max_examples=60)
word = st.text("abcdefgh \n", min_size=1, max_size=12)


def shaped(names: list[str], contents: list[str], records: bool) -> list[Shaped]:
    return [
        Shaped(Document(name, "" if records else text, {"t": text} if records else None), text, (text,))
        for name, text in zip(names, contents, strict=True)
    ]


@given(
    contents=st.lists(word.filter(str.strip), min_size=1, max_size=9),
    percent=st.integers(1, 99),
    records=st.booleans(),
    how=st.sampled_from(["tail", "hash"]),
)
@quick
def test_a_split_loses_nothing_and_keeps_the_order(contents: list[str], percent: int, records: bool, how: str) -> None:
    items = shaped([str(i) for i in range(len(contents))], contents, records)
    try:
        train, validation = sides = split(items, Validation.parse(f"{how} {percent}%"))
    except DataError as error:
        assert "leaves nothing to" in str(error)
        return
    assert train and validation
    if how == "tail":
        joined = "".join(item.text for item in (*train, *validation))
        # Only a side that would be nothing but white space may go.
        assert "".join(joined.split()) == "".join("".join(contents).split())
        if records:
            assert [*train, *validation] == items
    else:
        assert not {item.text for item in train} & {item.text for item in validation}
        assert sorted(item.document.name for side in sides for item in side) == sorted(i.document.name for i in items)


@given(films=st.lists(st.integers(0, 6), min_size=2, max_size=40), percent=st.integers(1, 99))
@quick
def test_equal_fields_stay_on_one_side(films: list[int], percent: int) -> None:
    items = [
        Shaped(Document(str(i), record={"film": film, "text": f"{i}"} if film else {"text": "?"}), str(i), (str(i),))
        for i, film in enumerate(films)
    ]
    how = Validation.parse(f"hash {percent}% by {{film}} of a year")
    assert how == Validation.parse(str(how)) != Validation.parse(f"hash {percent}%") and how.fields == ("film",)
    try:
        sides = split(items, how)
    except DataError as error:
        assert "leaves nothing to" in str(error)
        return
    trained, validated = ({(item.document.record or {}).get("film") for item in side} - {None} for side in sides)
    assert not trained & validated and trained | validated == set(films) - {0}


@pytest.mark.parametrize("wrong", ["hash 5% by film", "hash 5% by", "hash 100% by {film}", "tail 5% by {film}"])
def test_a_split_by_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"field|share|100%|percent|%"):
        Validation.parse(wrong)


def test_the_tail_is_cut_at_a_line_end_near_the_border() -> None:
    text = "".join(f"line {i:03d} of the play\n" for i in range(197))
    train, validation = split(shaped(["a"], [text], False), Validation.parse("tail 10%"))
    assert train[0].text + validation[0].text == text and train[0].text.endswith("\n")
    assert abs(len(validation[0].text) - len(text) // 10) <= 21


def test_files_are_chosen_by_name() -> None:
    items = shaped(["plays/a.md", "plays/b.md", "notes.md"], ["x", "y", "z"], False)
    chosen = lambda pattern: [i.document.name for i in split(items, Validation.parse(pattern))[1]]
    assert chosen("files plays/*.md") == ["plays/a.md", "plays/b.md"]
    assert chosen("files b.md") == ["plays/b.md"]
    with pytest.raises(DataError, match="leaves nothing to validate with") as caught:
        chosen("files c.md")
    assert "plays/a.md" in caught.value.problems[0].hint


@given(contents=st.lists(st.text("ab", min_size=1, max_size=40), min_size=1, max_size=60), fraction=st.floats(0, 1.5))
@quick
def test_a_sample_of_text_has_about_its_share_of_characters(contents: list[str], fraction: float) -> None:
    found = [text for text, _ in thinned(((len(text), text, False) for text in contents), fraction)]
    assert abs(sum(map(len, found)) - min(1, fraction) * sum(map(len, contents))) <= 40
