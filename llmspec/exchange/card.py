"""The model card of an exported folder: what the model is, what it has read, and under which licences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.metrics import Metric
from llmspec.core.units import count, size
from llmspec.core.weight_types import TYPES
from llmspec.exchange.figures import FileFigures
from llmspec.exchange.importing import spec_text
from llmspec.exchange.read_back import Compared
from llmspec.parts.heads.labels import Labelled
from llmspec.parts.heads.score import Score
from llmspec.parts.sources.base import Attribution

ASKED = (
    "It was trained on sources and their targets, and answers a source with its target. The chat template makes a "
    "prompt of one user message, the source; messages before it are not read.",
    "",
    "```python",
    'asked = tokenizer.apply_chat_template([{"role": "user", "content": source}], add_generation_prompt=True,',
    '                                      return_tensors="pt", return_dict=True)',
    "answer = model.generate(**asked)",
    "```",
)
"""What a card says of a model whose prompts are sources of pairs."""
TAGS = "tokens"
"""The kind of head that says something of each token."""
MOST = 40
"""Labels that are named, at most."""


def card(
    plan: Plan,
    phase: str,
    architecture: str,
    attributions: Sequence[Attribution],
    pairs: bool = False,
    validated: Sequence[Metric] = (),
) -> str:
    """README.md, with the front matter that model hubs read; `pairs`: prompts are sources of pairs; `validated`: what
    the phase's last validation said."""
    asked = ["## How it is asked", "", *ASKED, ""] if pairs else []
    front = {"library_name": "transformers", "pipeline_tag": _task(plan.model)}
    head = _head(plan, phase, architecture, attributions, front)
    return "\n".join([*head, *asked, *_labels(plan.model), *_validated(validated), *_about(plan, attributions)])


def _labels(model: ModelPlan) -> list[str]:
    """What it says of a text, or of its words; nothing of a model that draws text."""
    lines = list[str]()
    for head in model.heads.values():
        if isinstance(head, Labelled):
            of = "each word, at its first token" if head.kind == TAGS else "a text"
            several = ", none, one or several of them" if getattr(head, "multi_label", False) else ", one of them"
            names = [json.dumps(label, ensure_ascii=False) for label in head.labels or ()]
            more = [f"and {len(names) - MOST:,} more"] if len(names) > MOST else []
            lines = [f"It says of {of} which label it has{several}: {', '.join([*names[:MOST], *more])}.", ""]
        elif isinstance(head, Score):
            lines = ["It gives a text one number.", ""]
    return ["## What it says", "", *lines] if lines else []


def _validated(metrics: Sequence[Metric]) -> list[str]:
    """A table of metrics by source."""
    rows = [f"| {_cell(m.source)} | {_cell(m.label)} | {m.shown} |" for m in metrics]
    head = ["## Validation", "", "| source | metric | value |", "|---|---|---:|"]
    return [*head, *rows, ""] if rows else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def gguf_card(
    plan: Plan,
    phase: str,
    architecture: str,
    attributions: Sequence[Attribution],
    file: FileFigures,
    compared: Sequence[Compared],
    pairs: bool = False,
) -> str:
    """The same for a folder with a GGUF file, with what its types cost."""
    front = {"library_name": "gguf", "pipeline_tag": _task(plan.model)}
    head = _head(plan, phase, architecture, attributions, front)
    asked = ["## How it is asked", "", ASKED[0], ""] if pairs else []
    return "\n".join([*head, *asked, "## This file", "", *_figures(file, compared), "", *_about(plan, attributions)])


def _head(
    plan: Plan, phase: str, architecture: str, attributions: Sequence[Attribution], front: Mapping[str, str]
) -> list[str]:
    """Front matter, and what the model is."""
    licences = sorted({a.license for a in attributions if a.license})
    head = ["---", *(f"{k}: {v}" for k, v in front.items())]
    if len(licences) == 1:
        head.append(f"license: {json.dumps(licences[0])}")
    model = plan.model
    return [
        *head,
        "---",
        "",
        f"# {plan.name}",
        "",
        f"A language model of {count(model.parameters)} parameters, written by llmspec as `{architecture}`: "
        f"{model.layers} layers, width {model.d_model:,}, vocabulary {model.vocab:,}, context {model.context:,} "
        f"tokens. These are the weights of the phase `{phase}`.",
        "",
    ]


def _about(plan: Plan, attributions: Sequence[Attribution]) -> list[str]:
    """What it has read, and its spec."""
    read = ["## What it has read", "", *_read(plan, attributions), ""]
    return [*read, "## Spec", "", "```yaml", _spec(plan).rstrip("\n"), "```", ""]


def _figures(file: FileFigures, compared: Sequence[Compared]) -> list[str]:
    """The types of a file's tensors, and what they cost."""
    kinds = ", ".join(f"{number:,} in {name} ({TYPES[name].bits:g} bits)" for name, number in file.counts.items())
    lines = [f"{size(file.size)} of weights: tensors {kinds}.", ""]
    if file.cost is None:
        lines += [f"What the types cost was not measured: {file.unmeasured}.", ""]
    else:
        cost = file.cost
        lines += [
            f"Nats per token on {cost.tokens:,} tokens of {cost.text}:",
            "",
            "| weights | read by | nats per token |",
            "|---|---|---:|",
            f"| of the run | llmspec | {cost.before:.4f} |",
            f"| of this file | llmspec | {cost.after:.4f} |",
            *(f"| of this file | {one.reader} | {one.nats:.4f} |" for one in compared if one.nats is not None),
            "",
        ]
    return [*lines, *(f"- {notice}" for notice in file.notices)]


def _task(model: ModelPlan) -> str:
    """What hubs call what a model does."""
    head = next(iter(model.heads.values()))
    if isinstance(head, Labelled | Score):
        return "token-classification" if head.kind == TAGS else "text-classification"
    if not model.generates:
        return "fill-mask"
    return "text-generation" if model.encoder is None else "text2text-generation"


def _spec(plan: Plan) -> str:
    from pathlib import Path

    return "".join(line + "\n" for line in spec_text(plan, Path(plan.name)).splitlines() if not line.startswith("#"))


def _read(plan: Plan, attributions: Sequence[Attribution]) -> list[str]:
    if not attributions:
        return ["Nothing is noted of it: the model was imported."]
    lines = ["| source | licence | whom to name | tokens read, by phase |", "|---|---|---|---|"]
    for about in attributions:
        read = [
            f"{p.name}: {share.tokens_read:,}"
            for p in plan.phases
            for share in p.shares
            if share.source == about.source and share.tokens_read is not None
        ]
        cells = (
            about.source,
            about.license or "not said",
            about.attribution or "not said",
            ", ".join(read) or "not noted",
        )
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return lines
