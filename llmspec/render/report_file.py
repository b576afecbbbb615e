"""`explain FILE.gguf` on the terminal."""

from __future__ import annotations

from rich.table import Table

from llmspec.core.units import size
from llmspec.explain.file import FileReport
from llmspec.render.report_shared import bullets, facts, heading, number, percent, table
from llmspec.render.report_spec import tree
from llmspec.render.terminal import Screen, Text

KEYS = 60
"""Keys of metadata that are shown, at most."""


def show(report: FileReport, console: Screen) -> None:
    """The whole report, from the outside in."""
    console.print(Text.assemble((report.name, "bold"), f": {number(report.parameters)} parameters"))
    console.print(header(report))
    heading(console, "types", "in which weights lie; they stay so in memory")
    console.print(types(report))
    if report.model:
        heading(console, "model", "inputs → outputs of each part, and its parameters, summed over equal layers")
        console.print(tree(report.model, 8 if console.width >= 100 else 5))
    heading(console, "tensors", "of the file: shape (outputs × inputs) and type; * is each layer")
    console.print(tensors(report))
    if report.chat_template:
        heading(console, "chat template", "how a dialogue becomes text")
        console.print(Text(report.chat_template), soft_wrap=True)
    heading(console, "metadata", "● shapes what is computed or what text becomes, · does not")
    console.print(keys(report))
    if report.remarks:
        heading(console, "remarks")
        bullets(console, report.remarks)


def header(report: FileReport) -> Table:
    """What the file is, and how large."""
    several = f" in {len(report.files)} files" if len(report.files) > 1 else ""
    read_by = f"read by the table {report.table}" if report.table else "which no table has"
    wide = [f"{report.layers} layers"] if report.layers is not None else []
    wide += [f"{report.d_model} wide"] if report.d_model is not None else []
    return facts(
        [
            ("file", report.files[0]),
            ("size", f"{size(report.bytes)}{several}, {report.bits:.2f} bits a weight"),
            ("architecture", f"{report.architecture or 'none is named'}, {read_by}"),
            ("refused", "the problems stand below; what follows needs no understanding" if report.problems else ""),
            ("network", ", ".join(wide)),
            ("context", "" if report.context is None else f"{number(report.context)} tokens"),
            ("vocabulary", "" if report.vocab is None else f"{number(report.vocab)} tokens ({report.tokenizer})"),
            ("begins with", "" if report.begins is None else report.begins or "nothing"),
            ("ends with", "" if report.ends is None else ", ".join(report.ends) or "nothing"),
            ("dialogues", "by the chat template below" if report.chat_template else "none: it continues a text"),
            ("decoding", report.decoding.sentence if report.decoding else ""),
            ("licence", report.license or "not given"),
        ]
    )


def types(report: FileReport) -> Table:
    """How much is of which type."""
    made = table("type", "bits", "tensors", "numbers", "bytes", "share", right=("bits", "tensors", "numbers", "share"))
    whole = max(1, sum(row.bytes for row in report.types))
    for row in report.types:
        made.add_row(
            f"  {row.type}",
            f"{row.bits:g}",
            number(row.tensors),
            number(row.parameters),
            size(row.bytes),
            percent(row.bytes / whole),
        )
    return made


def tensors(report: FileReport) -> Table:
    """The table of tensors."""
    made = table("tensor", "", "shape", "type", "bytes")
    for row in report.tensors:
        copies = f"× {row.count}" if row.count > 1 else ""
        made.add_row(f"  {row.name}", copies, " × ".join(map(str, row.shape)), row.type, size(row.bytes))
    return made


def keys(report: FileReport) -> Table:
    """Keys of metadata with their values, the chat template apart."""
    made = table("key", "value")
    for row in report.keys[:KEYS]:
        mark = ("● ", "cyan") if row.read else ("· ", "dim")
        value = row.value.replace("\n", " ") if not row.key.endswith("chat_template") else "above"
        made.add_row(Text.assemble("  ", mark, row.key), Text(value))
    if len(report.keys) > KEYS:
        made.add_row(Text(f"  {len(report.keys) - KEYS} more", style="dim"), "")
    return made
