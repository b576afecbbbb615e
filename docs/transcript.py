"""docs/tutorial.md with the outputs of today: runs its commands in order, and puts what they print in place.

    python docs/transcript.py [PAGE]

Takes as long as the tutorial does. A block that leaves lines out (`⋮`) keeps its stretches: as many lines as before,
from the line on that equals the stretch's first one, or else has its form without numbers; of several stretches the
last one is looked for from the end.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = "  ⋮"
PROGRESS = re.compile(r"(reading|tokenising|gathering|training the tokenizer|downloading|measuring|looking at) ")
COLUMNS = 100


def output(command: str, folder: Path) -> list[str]:
    """What a shell command prints, but for its progress. Raises RuntimeError where it fails."""
    path = os.pathsep.join((str(folder / "bin"), os.environ.get("PATH", "")))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, "COLUMNS": str(COLUMNS), "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-e", "-c", command], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise RuntimeError(f"{command}\nended with status {done.returncode}:\n{done.stdout}")
    lines = [line.rstrip()[: COLUMNS + 10] for line in done.stdout.rstrip("\n").split("\n")]
    return [line for line in lines if not PROGRESS.match(line)]


def form(line: str) -> str:
    """A line without its numbers and the width of its columns."""
    return " ".join(re.sub(r"[\d.,]+", "#", line).split())


def stretches(lines: Sequence[str]) -> list[list[str]]:
    """What stands between the places where lines are left out."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line == LEFT_OUT:
            found.append([])
        else:
            found[-1].append(line)
    return found


def renewed(shown: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """The lines of a block with a new output. Raises ValueError for a stretch that is no longer there."""
    if LEFT_OUT not in shown:
        yield from new
        return
    parts, at = stretches(shown), 0
    for number, part in enumerate(parts):
        if number:
            yield LEFT_OUT
        if not part:
            continue
        places = [i for i in range(at, len(new)) if new[i] == part[0]]
        places = places or [i for i in range(at, len(new)) if form(new[i]) == form(part[0])]
        if not places:
            raise ValueError(f"nothing is printed like {part[0]!r} any more: choose other lines to show")
        begin = places[-1] if number and number == len(parts) - 1 else places[0]
        at = begin + len(part)
        yield from new[begin:at]


def main(page: Path) -> None:
    """Runs a page in a folder of its own, and writes it anew. Ends with status 1 where a block could not be renewed."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "bin").mkdir()
        (folder / "bin" / "llmspec").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m llmspec "$@"\n')
        (folder / "bin" / "llmspec").chmod(0o755)

        failed: list[str] = []

        def block(found: re.Match[str]) -> str:
            kind, text = found[1], found[2]
            if "pip install" in text:
                return found[0]
            if kind == "sh":
                output(text, folder)
                return found[0]
            command, *shown = text.rstrip("\n").split("\n")
            print(command, flush=True)
            new = output(command.removeprefix("$ "), folder)
            try:
                return "\n".join((f"```{kind}", command, *renewed(shown, new), "```"))
            except ValueError as error:  # the others are renewed all the same
                failed.append(f"{command}: {error}")
                return found[0]

        page.write_text(BLOCK.sub(block, page.read_text("utf-8")), "utf-8")
        if failed:
            sys.exit("\n".join(failed))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PAGE)
