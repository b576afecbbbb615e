"""What `llmspec import` and `llmspec export` have written, and what came of reading it back."""

from __future__ import annotations

from llmspec.core.units import count
from llmspec.core.visible import command, path_word
from llmspec.exchange.exporting import Exported
from llmspec.exchange.importing import SPEC, Imported
from llmspec.render.terminal import Text, out


def show_imported(found: Imported) -> None:
    """Prints it."""
    console = out()
    what = f"{found.architecture}, {count(found.parameters)} parameters"
    console.print(Text(f"imported {what}, by the table {found.family} → {found.path}"), soft_wrap=True)
    for notice in found.notices:
        console.print(Text(f"  {notice}"), soft_wrap=True)
    console.print(Text("then:"))
    for words in (("explain", f"{path_word(found.path)}/{SPEC}"), ("sample", path_word(found.path))):
        console.print(Text(f"  {command(*words)}"), soft_wrap=True)


def show_exported(found: Exported) -> None:
    """Prints it: the figures first, and `done` after them."""
    console = out()
    console.print(Text(f"wrote {found.path} as {found.architecture}: {', '.join(found.files)}"), soft_wrap=True)
    for one in found.compared:
        greedy = "" if one.greedy is None else "the same greedy text, "
        chat = "" if one.chat is None else ", a dialogue has the same ids"
        console.print(
            Text(
                f"  read back by {one.reader}: logits at most {one.logits:.2g} apart, "
                f"{greedy}the same ids of texts{chat}"
            ),
            soft_wrap=True,
        )
    if len(found.compared) == 1:
        console.print(Text("  transformers is not installed here, and has not read it"), soft_wrap=True)
    console.print(Text("done"))
