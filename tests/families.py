"""What tests say of a family of architectures, for docs/families.md: properties in pytest's report (`--junitxml`)."""

from __future__ import annotations

from collections.abc import Callable

from llmspec.compiler.plan import ModelPlan
from llmspec.core.problems import RunError
from llmspec.formats.hf.family import families
from llmspec.formats.hf.writing import config_of

Record = Callable[[str, object], None]
"""pytest's `record_property`."""


def tell(record: Record, family: str, **cells: str) -> None:
    """Cells of a family's row, by column (`_` for a space); what a test that fails has said does not count."""
    record("family", family)
    for column, cell in cells.items():
        record(f"cell:{COLUMNS.get(column, column)}", cell)


COLUMNS = {"imported": "import", "exported": "export", "delta": "max |Δ logits|", "step": "step against PyTorch"}
"""Columns that are no names."""


def family_of(model: ModelPlan, spec: str) -> str:
    """The mapping table that a model's parts have, by the name of its file, with its first head alone where it has
    several; the spec's own name where there is none."""
    for heads in (model.heads, dict([*model.heads.items()][:1])):
        kept = tuple(t for t in model.tensors if t.name.partition("_head.")[0] in {*heads, t.name})
        try:
            found = config_of(model.model_copy(update={"heads": heads, "tensors": kept})).family
        except RunError:
            continue
        return next(name for name, family in families().items() if family is found)
    return spec
