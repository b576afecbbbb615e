"""docs/MAP.md: every file of the package in one line, its docstring's first sentence.

python tests/architecture_map.py > docs/MAP.md
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "llmspec"
HEAD = """\
# The map

A line a file, in the words of its docstring. A package imports only what stands above it in this list, or a neighbour
of its own layer (tests/test_architecture.py). Made by `python tests/architecture_map.py > docs/MAP.md`.
"""


def sentence(path: Path) -> str:
    """The first sentence of a file's docstring, or of the comment that a C file begins with; '' without either."""
    text = path.read_text("utf-8")
    if path.suffix in (".c", ".h"):
        found = " ".join(line[3:] for line in text.split("\n\n")[0].split("\n") if line.startswith("// "))
    else:
        found = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
    return re.split(r"(?<!\bal)(?<!\be\.g)[.!?]\s", found, maxsplit=1)[0].rstrip(".")


def written(layers: tuple[set[str], ...]) -> str:
    """The whole map."""
    out = [HEAD]
    for packages in layers:
        for package in sorted(packages - {PACKAGE.name, "__main__"}):
            folder = PACKAGE / package
            files = sorted(folder.rglob("*")) if folder.is_dir() else [PACKAGE / f"{package}.py"]
            files = [f for f in files if f.suffix in (".py", ".c", ".h")]
            out.append(f"\n## {package}\n")
            out += [f"- `{f.relative_to(PACKAGE).as_posix()}` {said}" for f in files if (said := sentence(f))]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    from test_architecture import LAYERS

    print(written(LAYERS), end="")
