"""Files of the user: which are found, which are left out and said, what is read of them."""

from __future__ import annotations

from llmspec.parts.sources.notes import SHOWN, Notes


def test_notes_count_every_one_and_name_the_first_few() -> None:
    notes = Notes()
    for i in range(500):
        notes.add("empty files", f"{i}.txt")
    notes.add("folders of runs", "runs/a")
    notes.add("rows", count=7)
    assert list(notes.lines()) == ["500 empty files: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, ...",
                                   "1 folders of runs: runs/a", "7 rows"]
    assert Notes.parse(notes.dump()) == notes and len(notes.examples["empty files"]) == SHOWN
