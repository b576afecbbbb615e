"""The model card of an exported folder: what the model is, what it has read, and under which licences."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.units import count
from llmspec.exchange.importing import spec_text
from llmspec.parts.sources.base import Attribution


def card(plan: Plan, phase: str, architecture: str, attributions: Sequence[Attribution]) -> str:
    """README.md, with the front matter that model hubs read."""
    licences = sorted({a.license for a in attributions if a.license})
    front = {"library_name": "transformers", "pipeline_tag": _task(plan.model)}
    head = ["---", *(f"{k}: {v}" for k, v in front.items())]
    if len(licences) == 1:
        head.append(f"license: {json.dumps(licences[0])}")
    lines = [*head, "---", "", f"# {plan.name}", ""]
    model = plan.model
    lines += [
        f"A language model of {count(model.parameters)} parameters, written by llmspec as `{architecture}`: "
        f"{model.layers} layers, width {model.d_model:,}, vocabulary {model.vocab:,}, context {model.context:,} "
        f"tokens. These are the weights of the phase `{phase}`.",
        "",
    ]
    lines += ["## What it has read", "", *_read(plan, attributions), ""]
    lines += ["## Spec", "", "```yaml", _spec(plan).rstrip("\n"), "```", ""]
    return "\n".join(lines)


def _task(model: ModelPlan) -> str:
    """What hubs call what a model does."""
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
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return lines
