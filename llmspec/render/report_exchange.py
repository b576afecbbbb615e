"""What `llmspec import` and `llmspec export` have written, and what came of reading it back."""

from __future__ import annotations

from llmspec.core.units import count, size
from llmspec.core.visible import command, path_word
from llmspec.core.weight_types import TYPES
from llmspec.exchange.exporting import Exported
from llmspec.exchange.figures import FileFigures
from llmspec.exchange.importing import SPEC, Imported
from llmspec.exchange.merging import Merged
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
    if found.file is not None:
        _show_file(found.file)
    if found.left_out:
        console.print(Text(f"  left out, since it ends in one head there: {', '.join(found.left_out)}"), soft_wrap=True)
    for one in found.compared:
        greedy = {None: "", True: "the same greedy text, ", False: "another greedy text, "}[one.greedy]
        chat = "" if one.chat is None else ", a dialogue has the same ids"
        console.print(
            Text(
                f"  read back by {one.reader}: logits at most {one.logits:.2g} apart, "
                f"{greedy}the same ids of texts{chat}"
            ),
            soft_wrap=True,
        )
        if one.nats is not None:
            console.print(Text(f"    {one.nats:.4f} nats per token there"), soft_wrap=True)
    for unread in found.unread:
        console.print(Text(f"  {unread}"), soft_wrap=True)
    if len(found.compared) == 1 and not found.unread:
        reader = "transformers" if found.file is None else "llama-cpp-python"
        console.print(Text(f"  {reader} is not installed here, and has not read it"), soft_wrap=True)
    console.print(Text("done"))


def show_merged(found: Merged) -> None:
    """Prints it: the figures first, and `done` after them."""
    console = out()
    matrices = "matrix" if found.layers == 1 else "matrices"
    console.print(
        Text(f"merged {found.layers:,} {matrices} of {found.phase} as {found.type} → {found.path}"), soft_wrap=True
    )
    console.print(
        Text(
            f"  logits at most {found.logits:.2g} from those of model and adapter, which are up to {found.changed:.2g} "
            "from those of the model alone"
        ),
        soft_wrap=True,
    )
    if (learned := found.learned) is not None:
        lost = f", {max(0.0, learned.lost):.1%} of the gain lost" if learned.lost is not None else ""
        console.print(Text(f"  nats per token of {learned.text} ({learned.tokens:,} tokens):"), soft_wrap=True)
        console.print(
            Text(
                f"    {learned.base:.4f} the model alone, {learned.adapted:.4f} with its adapter, {learned.merged:.4f} "
                f"merged{lost}"
            ),
            soft_wrap=True,
        )
    else:
        console.print(Text(f"  not measured on text: {found.unmeasured} (--text FILE)"), soft_wrap=True)
    for notice in found.notices:
        console.print(Text(f"  {notice}"), soft_wrap=True)
    console.print(Text("done"))


def _show_file(file: FileFigures) -> None:
    """What a GGUF file holds, and what it costs."""
    console = out()
    kinds = ", ".join(f"{number:,} in {name} ({TYPES[name].bits:g} bits)" for name, number in file.counts.items())
    console.print(Text(f"  {size(file.size)} of weights: tensors {kinds}"), soft_wrap=True)
    for odd in file.rows:
        what = "tensor is" if odd.tensors == 1 else "tensors are"
        console.print(
            Text(f"  {odd.tensors:,} {what} in a larger type: rows of {odd.length} are no whole blocks of {odd.type}"),
            soft_wrap=True,
        )
    if file.cost is None:
        console.print(Text(f"  what the types cost was not measured: {file.unmeasured} (--text FILE)"), soft_wrap=True)
    else:
        cost = file.cost
        console.print(
            Text(
                f"  {cost.before:.4f} nats per token before and {cost.after:.4f} after ({cost.more:+.4f}), on "
                f"{cost.tokens:,} tokens of {cost.text}"
            ),
            soft_wrap=True,
        )
    for notice in file.notices:
        console.print(Text(f"  {notice}"), soft_wrap=True)
