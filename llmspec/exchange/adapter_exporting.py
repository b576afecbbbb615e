"""`llmspec export --to peft`: the adapter of a run alone, as PEFT reads it, read back at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmspec.core.problems import LlmspecError, RunError
from llmspec.decoding.language_model import LanguageModel
from llmspec.exchange.exporting import Exported
from llmspec.exchange.merging import published
from llmspec.formats import peft
from llmspec.formats.bases import path_of
from llmspec.formats.opening import stored_model
from llmspec.formats.peft import PEFTFolder
from llmspec.parts.others import StartModel
from llmspec.runs.stored import StoredModel


def export_adapter(
    folder: StoredModel,
    model: LanguageModel,
    out: Path,
    progress: Callable[[str, float, float], None] = lambda what, done, total: None,
) -> Exported:
    """Writes the adapter of a model, opened from a folder, into a new folder, and reads it back where its model lies in
    a folder of its own.

    Raises LlmspecError where there is no adapter, RunError where PEFT has no form for it, the folder cannot be written,
    or what is read back differs.
    """
    import numpy as np

    network = model.plan.model
    if network.adapter is None:
        raise LlmspecError(f"{folder.path} has no adapter", hint="`--to hf` writes the model as it is")
    base, origin = based_on(folder, model)
    weights = {name: array for name, array in model.weights().items() if network.adapter.owns(name)}
    peft.write(out, network, weights, base, origin, card(base))
    if base:
        progress("reading it back", 0, 0)
        read = stored_model(out)
        found = read.weights(read.plan())[1]
        if wrong := [n for n, a in weights.items() if not np.allclose(found.get(n, np.nan), a, rtol=1e-6, atol=0)]:
            raise RunError(f"{out} does not read back as it was: {wrong[0]} differs", hint="remove it")
    return Exported(
        path=str(out), architecture="PEFT LORA", files=tuple(sorted(p.name for p in out.iterdir())), compared=()
    )


def based_on(folder: StoredModel, model: LanguageModel) -> tuple[str, str]:
    """(path of the model that an adapter stands beside, '' where it has none of its own; that model's family)."""
    if isinstance(folder, PEFTFolder):
        return str(folder.model.path), folder.origin
    plan = folder.plan()
    start = next((p.phase.from_ for p in plan.phases if p.name == model.phase), None)
    if not isinstance(start, StartModel):
        return "", ""
    return str(path_of(plan.base, start)), published(plan, model.phase, model.plan.model)[1]


def card(base: str) -> str:
    """README.md of the folder."""
    where = f"of the model in `{base}`" if base else "of a model that a run has trained: export that with `--to hf`"
    return (
        f"An adapter {where}.\n\n`base_model_name_or_path` in {peft.CONFIG} has to name that model as transformers "
        "reads it, a folder or a name on the hub:\n\n    from peft import AutoPeftModelForCausalLM\n"
        "    model = AutoPeftModelForCausalLM.from_pretrained('this folder')\n"
    )
