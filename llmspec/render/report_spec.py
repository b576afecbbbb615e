"""`explain SPEC` on the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.padding import Padding
from rich.table import Table

from llmspec.core.units import count, size
from llmspec.core.visible import visible
from llmspec.explain.chain import ChainReport
from llmspec.explain.model import MaskPicture, TensorRow, TreeNode, folded
from llmspec.explain.phases import PhaseReport, ShareReport, SourceReport
from llmspec.explain.spec import SpecReport
from llmspec.forecast.estimates import Forecast
from llmspec.render import checks
from llmspec.render.report_examples import show_examples, show_filled, show_tokenization
from llmspec.render.report_memory import show_memory
from llmspec.render.report_shared import bar, bullets, facts, flops, heading, number, percent, spark, table
from llmspec.render.terminal import Screen, Text


def show(report: SpecReport, console: Screen) -> None:
    """The whole report, from the outside in."""
    active = f", of which a token uses {number(report.active_parameters)}"
    active = active if report.active_parameters < report.parameters else ""
    title = Text.assemble((report.name, "bold"), f": {number(report.parameters)} parameters{active}")
    console.print(title)
    console.print(header(report))
    if report.phases and not report.times:
        console.print(Text("no time estimate yet: explain --time measures this machine first", style="dim"))
    if report.note:
        console.print(Text(report.note, style="yellow"))
    heading(console, "model", "inputs → outputs of each part, and its parameters, summed over equal layers")
    console.print(tree(report.model, 8 if console.width >= 100 else 5))
    heading(console, "tensors", "every weight: shape (outputs × inputs) and how it starts; * is each layer")
    console.print(tensors(report.tensors))
    heading(console, "attention mask", "■ this token (row) attends to that one (column); letters are documents")
    console.print(Padding(Columns([mask(m) for m in report.masks], padding=(0, 4)), (0, 0, 0, 2)))
    if report.sources:
        heading(console, "sources", "where the text comes from")
    for source in report.sources:
        console.print(Text(f"  {source.name}", style="bold"))
        console.print(facts(source_facts(source), indent=4))
    if report.phases:
        heading(console, "phases", "how it is trained, in this order")
    for index, phase in enumerate(report.phases, 1):
        show_phase(console, index, phase, {found.phase: found for found in report.times}.get(phase.name))
    if report.examples:
        show_examples(console, report.examples)
    if report.filled:
        show_filled(console, report.filled)
    if report.tokenization:
        show_tokenization(console, report.tokenization)
    show_memory(console, report.memory, report.memory_limit, report.memory_limit_from)
    heading(console, "decoding", "how tokens are drawn: each filter acts on what the one above it leaves")
    show_chain(console, report.decoding)
    heading(console, "checks", "checked before training; a run is refused if one fails")
    checks.show(report.checks, console)
    if report.decisions:
        heading(
            console, "decided for you", "chosen for keys that the spec leaves open; write a key to choose otherwise"
        )
        console.print(decisions(report))
    if report.remarks:
        heading(console, "remarks")
        bullets(console, report.remarks)


def header(report: SpecReport) -> Table:
    """Where the spec runs, in which precision, and how large it is."""
    return facts(
        [
            ("device", f"{report.device}, weights take {size(report.weight_bytes)}"),
            ("precision", precision(report)),
            (
                "beam",
                f"{report.beam}: the first steps search each kernel's fastest form, for minutes; the cache keeps it "
                "for later runs"
                if report.beam
                else "",
            ),
            (
                "network",
                f"{layers_of(report)} layers, {report.d_model} wide"
                + (f", dropout {dropout(report)}" if report.dropout else ""),
            ),
            ("context", f"{number(report.context)} tokens"),
            ("vocabulary", f"{number(report.vocab)} tokens ({report.tokenizer})"),
            ("dialogues", f"by the chat template {report.chat_template}" if report.chat_template else ""),
            (
                "compute",
                f"{flops(report.flops_per_token)} per token read, {flops(report.flops)} for all training"
                if report.flops is not None
                else f"{flops(report.flops_per_token)} per token read",
            ),
            ("decoding", report.decoding_speed.sentence if report.decoding_speed else ""),
            ("memory", peak(report)),
            ("seed", str(report.seed)),
        ]
    )


def layers_of(report: SpecReport) -> str:
    """How many layers there are, of each stack where there are two."""
    encoder = report.encoder_layers
    return f"{encoder} encoder and {report.layers - encoder} decoder" if encoder else f"{report.layers}"


def dropout(report: SpecReport) -> str:
    """What training drops."""
    if not isinstance(report.dropout, Mapping):
        return f"{report.dropout:g}"
    return " and ".join(f"{share:g} of {site}" for site, share in report.dropout.items())


def precision(report: SpecReport) -> str:
    """How numbers are rounded, in a phrase."""
    if report.precision == "float32":
        return "float32 throughout"
    return (
        f"matrix products in {report.precision}, summed in float32; weights, optimizer state, norms and losses in "
        "float32"
    )


def peak(report: SpecReport) -> str:
    """The largest peak of all phases, and whose it is."""
    most = max(report.memory, key=lambda phase: phase.peak)
    has = f" of {size(report.memory_limit)}" if report.memory_limit is not None else ""
    return f"{size(most.peak)}{has} at the peak, in {most.phase}"


# -- model ---------------------------------------------------------------------------------------------------------
WIDEST_NAME = 36
"""Characters of a part's name, the lines before it included, that a narrow terminal still gets whole."""


def tree(root: TreeNode, width: int) -> Table:
    """The tree with its numbers in columns, and bars of up to `width` characters."""
    made = table("part", "shape", "parameters", "share", "", right=("parameters", "share"))
    rows = list(walked(root.children, "  "))
    made.columns[0].min_width = min(WIDEST_NAME, max(len(guide + node.name) for guide, node in rows))
    for guide, node in rows:
        name = Text.assemble(
            (guide, "dim"),
            (node.name, "bold" if node.children else ""),
            (f" × {node.times}" if node.times > 1 else "", "cyan"),
        )
        name.no_wrap = True
        what = Text.assemble(node.shape, "  " if node.shape and node.note else "", (node.note, "dim"))
        counts = (number(node.parameters), percent(node.share)) if node.parameters else ("", "")
        made.add_row(name, what, *counts, Text(bar(node.share, width), style="cyan", no_wrap=True))
    made.add_row(Text("  total", style="bold"), "", number(root.parameters), percent(root.share), "")
    return made


def walked(nodes: tuple[TreeNode, ...], indent: str) -> Iterator[tuple[str, TreeNode]]:
    """(the lines drawn before it, node), depth first."""
    for i, node in enumerate(nodes):
        last = i == len(nodes) - 1
        yield indent + ("└─ " if last else "├─ "), node
        yield from walked(node.children, indent + ("   " if last else "│  "))


def tensors(rows: tuple[TensorRow, ...]) -> Table:
    """The table of tensors, rows that repeat folded into one."""
    made = table("tensor", "", "shape", "each", "starts as", right=("each",))
    for name, copies, row in folded(rows):
        made.add_row(
            f"  {name}",
            f"× {copies}" if copies > 1 else "",
            " × ".join(map(str, row.shape)),
            number(row.parameters),
            row.init,
        )
    return made


def mask(picture: MaskPicture) -> Text:
    """A small square of who sees whom."""
    letters = [chr(ord("a") + d) for d in picture.documents]
    text = Text(f"{picture.name}\n", no_wrap=True)
    text.append("  " + " ".join(letters) + "\n", style="dim")
    for letter, row in zip(letters, picture.allowed, strict=True):
        text.append(f"{letter} ", style="dim")
        for seen in row:
            text.append("■ " if seen else "· ", style="cyan" if seen else "dim")
        text.append("\n")
    return text.append(f"in {', '.join(picture.used_by)}" if picture.used_by else "(in no phase here)", style="dim")


# -- sources and phases --------------------------------------------------------------------------------------------
def source_facts(source: SourceReport) -> Iterator[tuple[str, Any]]:
    """Rows (label, value) about one source."""
    yield "from", source.origin
    yield "licence", source.license or Text("not given", style="yellow")
    yield "attribution", source.attribution
    if source.train_tokens is None:
        rule = f"{source.validation} is kept for validation" if source.validation else "nothing is kept for validation"
        yield "text", Text(f"not read yet; {rule}", style="dim")
        return
    kept = "nothing is kept for validation"
    if source.validation:
        kept = f"{number(source.validation_tokens)} kept for validation ({source.validation})"
    ratio = f", {source.characters_per_token:.2f} characters each" if source.characters_per_token else ""
    documents = f"{number(source.documents)} document{'' if source.documents == 1 else 's'}"
    yield "text", f"{documents}: {number(source.train_tokens)} tokens to train on{ratio}; {kept}"
    if source.format:
        yield "format", f"dialogues in the {source.format} format, as recognised in its records"
    if source.duplicates:
        yield "duplicates", f"{number(source.duplicates)} of its documents duplicate another one, and are kept"
    if source.unknown or source.validation_unknown:
        yield (
            "unknown",
            (
                f"{percent(source.unknown or 0)} of its characters are not in the vocabulary, "
                f"{percent(source.validation_unknown or 0)} of those kept for validation"
            ),
        )
    if source.contaminated:
        done = "kept in training, as the spec allows" if source.contamination == "allow" else "dropped from training"
        yield "overlap", f"{number(source.contaminated)} of its documents are also in validation: {done}"


def show_phase(console: Screen, index: int, phase: PhaseReport, time: Forecast | None) -> None:
    """One phase of a spec: its settings and its mixture."""
    start = f"starts from the weights of {phase.starts_from}" if phase.starts_from else "from random initial weights"
    console.print(
        Text.assemble(("" if index == 1 else "\n") + f"  {index} ", (phase.name, "bold"), f"  {phase.kind}, {start}")
    )
    console.print(facts(phase_facts(phase, max(10, min(48, console.width - 46)), time), indent=4))
    console.print(Padding(mixture(phase.shares), (0, 0, 0, 4)))


def phase_facts(phase: PhaseReport, width: int, time: Forecast | None) -> Iterator[tuple[str, Any]]:
    """Rows (label, value) about one phase."""
    passes = f" × {phase.gradient_accumulation_steps} passes" if phase.gradient_accumulation_steps > 1 else ""
    if phase.steps is None:
        yield "length", f"{phase.budget}: steps are known once the text has been read"
    else:
        asked = "" if phase.budget.endswith("steps") else f"{phase.budget}: {'' if phase.exact else 'about '}"
        yield (
            "length",
            (
                f"{asked}{number(phase.steps)} steps of {phase.micro_batch_size} × {phase.context} tokens{passes}, "
                f"{number(phase.tokens)} tokens in all"
            ),
        )
        if phase.batch_size_warmup:
            yield "batch", f"grows from one pass to all over the first {number(phase.batch_size_warmup)} steps"
        yield "compute", f"{flops(phase.flops)} in matrix products, {flops(phase.operations)} in all"
    if phase.row_lengths:
        yield "rows", rows_that_grow(phase.row_lengths)
    for said in phase.others:
        role, _, rest = said.partition(": ")
        yield role, visible(rest)
    for said in phase.replayed:
        yield "replay", visible(said)
    if time is not None:
        yield "time", time.sentence.partition(": ")[2]
    rates = [lr for _, lr in phase.learning_rate]
    yield (
        "learning rate",
        Text.assemble(
            (spark(rates, width, floor=0.0), "cyan"), " " if rates else "", f"peak {phase.peak_lr:g}, {phase.schedule}"
        ),
    )
    yield "optimizer", phase.optimizer
    yield (
        "gradient",
        f"clipped to a norm of {phase.max_grad_norm:g}" if phase.max_grad_norm is not None else "not clipped",
    )
    if phase.heads:
        yield "adds", ", ".join(phase.heads)
    if phase.trained < phase.parameters:
        frozen = f"; frozen: {', '.join(phase.freeze)}" if phase.freeze else ""
        yield "trains", f"{count(phase.trained)} of {count(phase.parameters)} parameters{frozen}"
    yield from learning_apart(phase)
    which = "tokens" if phase.looks_ahead else "earlier tokens"
    yield "sees", f"{which} of its own document" if phase.document_mask else f"all {which} of its block"


def rows_that_grow(lengths: Sequence[tuple[int, int | None]]) -> str:
    """How long rows are, and in how many steps."""
    (*before, (last, _)) = lengths
    found = [
        f"of {length} tokens" + ("" if steps is None else f" for {number(steps)} step{'s' * (steps != 1)}")
        for length, steps in before
    ]
    return ", then ".join([*found, f"of {last} tokens"]) + ", as many tokens a step throughout"


def learning_apart(phase: PhaseReport) -> Iterator[tuple[str, str]]:
    """Groups of tensors with a rate or a beginning of their own, a line each, and the average of the weights."""
    for i, group in enumerate(phase.groups):
        waits = ""
        if group.waits_share:
            step = "" if group.waits is None else f" (step {number(group.waits + 1)})"
            waits = f", from {100 * group.waits_share:.4g}% of the phase on{step}"
        rate = f"× {group.multiplier:.4g}: peak {group.peak_lr:.3g}{waits}"
        yield "" if i else "rates", f"{', '.join(group.tensors)} ({count(group.parameters)}) {rate}"
    if phase.ema is not None:
        yield "average", f"of the weights, which keeps {phase.ema:g} of itself a step: validation and samples have it"


def mixture(shares: tuple[ShareReport, ...]) -> Table:
    """What is read of each source, and what is learned of it."""
    known = any(s.tokens_read is not None for s in shares)
    columns = ("reads", "share", "tokens", "epochs", "supervised") if known else ("reads", "share")
    made = table(*columns, "trains on", right=columns[1:], indent=0)
    for s in shares:
        cells = [s.source, f"{s.share:.4g}" if s.share > 1 else f"{100 * s.share:.4g}%"]
        if known:
            epochs = "?" if s.epochs is None else f"{s.epochs:.2f}"
            cells += [number(s.tokens_read), epochs, number(s.tokens_supervised)]
        reasons = ", ".join(f"{number(n)} {reason}" for reason, n in (s.dropped or {}).items())
        made.add_row(*cells, s.learned + (f" (left out: {reasons})" if reasons else ""))
    return made


# -- decoding and decisions ----------------------------------------------------------------------------------------
def show_chain(console: Screen, chain: ChainReport) -> None:
    """The chain of filters, and what each of them makes of an example."""
    numbers = ("entropy", "tokens left", "best")
    made = table("filter", "setting", *numbers, "the most probable", right=numbers)
    width, top = 24 if console.width >= 100 else 12, max(max(e.best) for e in chain.effects)
    for effect in chain.effects:
        drawn = spark(effect.best[:width], width, floor=0.0, ceiling=top)
        made.add_row(
            f"  {effect.filter or 'the model'}",
            effect.settings,
            f"{effect.entropy_bits:.2f}",
            number(effect.kept),
            percent(effect.best[0]),
            Text(drawn, style="cyan", no_wrap=True),
        )
    console.print(made)
    if len(chain.effects) == 1:
        console.print("  no filter is on: tokens are drawn from the model's own probabilities")
    console.print(Padding(Text(f"entropy in bits; on an example: {chain.example}", style="dim"), (0, 0, 0, 2)))
    stop = "".join(f", or {json.dumps(s, ensure_ascii=False)}" for s in chain.stop)
    ends = Text(f"an answer ends after {number(chain.max_tokens)} tokens, at an end token{stop}")
    console.print(Padding(ends, (0, 0, 0, 2)))


def decisions(report: SpecReport) -> Table:
    """Every value that the spec left out, and why it is what it is."""
    made = table("key", "value", "why")
    for decision in report.decisions:
        value = json.dumps(decision.value, ensure_ascii=False)
        made.add_row(f"  {decision.path}", value.strip('"'), decision.why)
    return made
