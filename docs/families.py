"""docs/families.md: what each family of architectures does here, every cell from a test or a benchmark that ran.

    python docs/families.py [--add] RESULTS.xml…

The files are pytest's own reports (`--junitxml`). A test that says something of a family has the property `family`, and
one for each cell: `cell:train`, `cell:max |Δ logits|` and so on; the largest number counts where several tests give
one. What failed or was skipped leaves its cell empty; a column of which the files say nothing is kept from the page.
With `--add` every cell is kept of which they say nothing, or no larger number.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

PAGE = Path(__file__).with_name("families.md")
COLUMNS = ("spec", "train", "decode", "import", "max |Δ logits|", "gradients", "export", "step against PyTorch")
HEAD = """# Families

What each family of architectures does here. Every cell comes from a test or a benchmark (`tests/test_architectures.py`,
`tests/peers/test_hf*.py`, `tests/benchmarks/test_families.py`); an empty one says that no test has shown it.

- **spec**: a shipped spec describes the published model, its number of parameters as published.
- **train**: a small model of these parts learns from real text. **decode**: with its KV cache it gives the logits of
  the formulas in float64.
- **import**, **max |Δ logits|**, **gradients**: models of transformers with random weights and drawn sizes, opened from
  their folders; the largest differences of logits, and of gradients relative to their norms, float32.
- **export**: what is written back has the same bytes in every tensor, and a config of the same meaning.
- **step against PyTorch**: time of a training step at d 256, 4 layers, divided by PyTorch's beside it (less is better).

```sh
.venv/bin/pip install -q -e '.[test,peers]'
.venv/bin/pytest -m peers --junitxml=peers.xml tests/peers/test_hf.py tests/peers/test_hf_encoders.py \\
    tests/peers/test_hf_pairs.py
.venv/bin/pytest --junitxml=specs.xml tests/test_architectures.py
.venv/bin/pytest -n 0 -m benchmark --junitxml=steps.xml tests/benchmarks/test_families.py
.venv/bin/python docs/families.py peers.xml specs.xml steps.xml
```

"""


def cells(report: Path) -> dict[tuple[str, str], str]:
    """(family, column) -> what the tests of a report that passed say."""
    found: dict[tuple[str, str], str] = {}
    for case in ET.parse(report).iter("testcase"):
        if any(case.find(outcome) is not None for outcome in ("failure", "error", "skipped")):
            continue
        said = [(p.get("name", ""), p.get("value", "")) for p in case.iter("property")]
        for family in (value for name, value in said if name == "family"):
            for name, value in said:
                if name.startswith("cell:"):
                    key = family, name.removeprefix("cell:")
                    found[key] = larger(found.get(key, value), value)
    return found


def larger(a: str, b: str) -> str:
    """The larger of two numbers; of words all, each once."""
    try:
        return max(a, b, key=float)
    except ValueError:
        return ", ".join(sorted({*a.split(", "), *b.split(", ")}))


def kept(page: str) -> dict[tuple[str, str], str]:
    """The cells of a page."""
    lines = [line.replace(r"max \|Δ logits\|", "max Δ") for line in page.split("\n") if line.startswith("| ")]
    rows = [re.split(r"\s*\|\s*", line.removeprefix("| ").removesuffix(" |")) for line in lines]
    return {(row[0], column): cell for row in rows[1:] for column, cell in zip(COLUMNS, row[1:], strict=False) if cell}


def page(found: dict[tuple[str, str], str]) -> str:
    """The whole page."""
    head = " | ".join(("family", *COLUMNS)).replace("|Δ logits|", "\\|Δ logits\\|")
    lines = [f"| {head} |", "|" + "---|" * (len(COLUMNS) + 1)]
    for family in sorted({family for family, _ in found}):
        lines.append(f"| {family} | " + " | ".join(found.get((family, column), "") for column in COLUMNS) + " |")
    return HEAD + "\n".join(lines) + "\n"


def main(reports: list[str]) -> None:
    """Writes the page."""
    found = kept(PAGE.read_text("utf-8")) if PAGE.exists() else {}
    add = "--add" in reports
    for report in (r for r in reports if r != "--add"):
        new = cells(Path(report))
        if add:
            new = {key: larger(found.get(key, value), value) for key, value in new.items()}
        fresh = set() if add else {column for _, column in new}
        found = {key: cell for key, cell in found.items() if key[1] not in fresh} | new
    PAGE.write_text(page(found), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
