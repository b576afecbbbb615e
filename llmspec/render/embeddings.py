"""Vectors of texts: written to files, and how alike they are on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmspec.render.report_shared import table
from llmspec.render.terminal import Text, err, out
from llmspec.runs.files import write_bytes

MOST = 12
"""Texts whose table can be read."""
SHOWN = 48
"""Characters of a text that a table shows."""


def tell_cut(found: Any, texts: int) -> None:
    """Say which texts were not read whole."""
    if found.cut:
        which = ", ".join(f"{i + 1}" for i in found.cut[:8]) + (", ..." if len(found.cut) > 8 else "")
        err().print(
            f"note: {len(found.cut):,} of {texts:,} texts are longer than the {found.longest:,} tokens that are read; "
            f"only their beginnings count: {which}"
        )


def write(path: Path, texts: list[str], found: Any) -> None:
    """The vectors as a file: .npy holds an array (texts, numbers) of float32, .jsonl an object a line."""
    if path.suffix == ".npy":
        import io

        import numpy as np

        held = io.BytesIO()
        np.save(held, found.vectors, allow_pickle=False)
        raw = held.getvalue()
    else:
        rows = (
            json.dumps({"text": text, "embedding": numbers(vector)}, ensure_ascii=False)
            for text, vector in zip(texts, found.vectors, strict=True)
        )
        raw = "".join(f"{row}\n" for row in rows).encode()
    write_bytes(path, raw)


def numbers(vector: Any) -> list[float]:
    """A vector's numbers, with the digits that tell float32 numbers apart."""
    return [float(f"{x:.9g}") for x in vector.tolist()]


def as_data(model: Any, texts: list[str], found: Any, path: str | None) -> dict[str, Any]:
    """JSON-able form; without the vectors where they went to a file."""
    cut = set(found.cut)
    return {
        "model": model.plan.name,
        "phase": model.phase,
        "dimensions": int(found.vectors.shape[1]),
        "file": path,
        "texts": [
            {
                "text": text,
                "tokens": found.tokens[i],
                "cut": i in cut,
                **({"embedding": numbers(found.vectors[i])} if path is None else {}),
            }
            for i, text in enumerate(texts)
        ],
    }


def show(texts: list[str], found: Any, path: Path | None) -> None:
    """What was written where; or how alike the texts are, as cosines."""
    console = out()
    if path is not None:
        console.print(Text(f"{len(texts):,} vectors of {found.vectors.shape[1]:,} numbers: {path}"))
        return
    from llmspec.decoding.embedding import similarities

    cosines = similarities(found.vectors)
    columns = [str(i + 1) for i in range(len(texts))]
    grid = table("text", *columns, right=columns, indent=0)
    for i, text in enumerate(texts):
        line = " ".join(text.split())
        shown = line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"
        row = [Text(f"{cosines[i, j]:.2f}", style="bold" if i == j else "") for j in range(len(texts))]
        grid.add_row(Text(f"{i + 1}  {shown}"), *row)
    console.print(grid)
