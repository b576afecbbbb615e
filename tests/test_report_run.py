"""What `explain RUN` shows of labels and of samples can be read at every width."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from llmspec.core.metrics import Metric
from llmspec.explain.curves import Score, ValidationCurve
from llmspec.explain.labels import LabelScore, LabelTable
from llmspec.explain.run import Sample
from llmspec.render import report_labels, report_run
from llmspec.render.terminal import Screen

words = st.text("abcdefgh ", min_size=1, max_size=30).map(lambda text: f"x{text.strip()}")


def screen(width: int) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    return Screen(file=file, force_terminal=False, width=width, color_system=None), file


@given(
    st.lists(words, min_size=2, max_size=report_labels.CROSSED, unique=True), st.integers(1, 9999), st.integers(80, 250)
)
def test_every_row_of_a_confusion_table_has_its_label_and_its_counts(labels: list[str], most: int, width: int) -> None:
    scores = tuple(LabelScore(label, most, 0.5, 0.5, 0.5) for label in labels)
    cells = tuple((i, j, most - i - j) for i in range(len(labels)) for j in range(len(labels)) if most > i + j)
    console, file = screen(width)
    shown = report_labels.crossed(console, LabelTable("s", 1, scores, cells))
    said = file.getvalue()
    if not shown:
        assert not said and 3 + len(labels) * len(f"  {most:,}") + max(map(len, labels)) > width - 12
        return
    assert all(len(line) <= width for line in said.splitlines())
    table = "".join(said.split())
    for i, label in enumerate(labels):
        counts = [f"{most - i - j:,}" if most > i + j else "0" for j in range(len(labels))]
        assert "".join(counts) in table, "a count is cut"
        assert all(word in table for word in label.split())


@given(words.map(lambda text: text * 40), st.text("yz", min_size=1, max_size=30), st.integers(40, 200))
def test_what_was_said_is_seen_however_long_its_prompt_is(prompt: str, answer: str, width: int) -> None:
    console, file = screen(width)
    report_run.show_sample(console, "learn", Sample(1, prompt, answer, "eos"))
    said = file.getvalue().splitlines()
    assert answer in "".join(line.strip() for line in said)
    assert len(said) <= 2 + report_run.SAMPLE_LINES


@given(
    st.lists(st.text("abcdef", min_size=1, max_size=12), min_size=1, max_size=12, unique=True),
    st.lists(st.text("stuv", min_size=1, max_size=14), min_size=1, max_size=3, unique=True),
    st.integers(0, 20),
)
def test_no_word_of_a_table_of_scores_is_broken(names: list[str], sources: list[str], more: int) -> None:
    """At widths around that of its columns of numbers, where there may be room for the names of rows, or not."""
    metrics = tuple(Metric(name, 0.5, better="higher") for name in names)
    curves = tuple(ValidationCurve(source, (Score(30, metrics),)) for source in sources)
    width = sum(max(len(name), len("0.5000")) + 2 for name in (*names, "at step")) + more
    console, file = screen(max(width, 50))
    console.print(report_run.scores(curves, max(width, 50)))
    said = file.getvalue()
    assert all(word in said.split() for word in ("validation", *names, *sources)), said
