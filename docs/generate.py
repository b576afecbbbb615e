"""Writes the files that are made from the program: specs/schema.json, docs/reference.md, docs/MAP.md.

python docs/generate.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Writes each file that has changed, and says so."""
    sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "tests")]
    import architecture_map
    import spec_reference
    from test_architecture import LAYERS

    from llmspec.spec.json_schema import as_text

    made = {
        "specs/schema.json": as_text(),
        "docs/reference.md": spec_reference.reference(),
        "docs/MAP.md": architecture_map.written(LAYERS),
    }
    for name, text in made.items():
        path = ROOT / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"{name} is new")


if __name__ == "__main__":
    main()
