"""`llmspec import`: a folder of transformers or a GGUF file becomes a model folder with its spec."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmspec.compiler.plan import Plan
from llmspec.core.problems import RunError
from llmspec.formats.foreign import ForeignModel
from llmspec.formats.gguf.importing import GGUFFile, is_gguf
from llmspec.formats.hf.importing import HFFolder, is_hf_folder
from llmspec.parts.base import Frozen
from llmspec.runs.model_folder import save_model
from llmspec.spec.dump import to_yaml

SPEC, TOKENIZER = "spec.yaml", "tokenizer.json"
FILES = {"file": TOKENIZER, "merges": None, "lowercase": None}
"""What a tokenizer of a file says once it lies in the model's folder."""


class Imported(Frozen):
    """What `import` has written."""

    path: str
    family: str
    """The mapping table."""
    architecture: str
    parameters: int
    notices: tuple[str, ...]


def import_folder(
    source: Path, out: Path, progress: Callable[[str, float, float], None] = lambda what, done, total: None
) -> Imported:
    """Writes the model of a Hugging Face folder or of a GGUF file into a new folder, with `spec.yaml`, which describes
    it. Quantised weights stay as they are.

    Raises RunError with everything that is not understood, is damaged or does not fit together.
    """
    folder = opened(source)
    progress(f"reading {folder.described_in}", 0, 0)
    plan = folder.plan()
    codec = folder.tokenizer(plan)
    phase, weights, notices = folder.weights(plan, progress=progress)
    own = plan.model_copy(update={"tokenizer": beside(plan.tokenizer), "base": "."})
    progress("writing weights", 0, 0)
    save_model(
        out,
        own,
        codec.to_json(),
        weights,
        phase=phase,
        chat=folder.chat(plan, phase),
        origin=folder.origin,
        more={SPEC: spec_text(own, source)},
    )
    return Imported(
        path=str(out),
        family=folder.origin,
        architecture=folder.architecture_name,
        parameters=plan.model.parameters,
        notices=tuple(notices),
    )


def opened(source: Path) -> ForeignModel:
    """What a path holds of others. Raises RunError where that is nothing that is imported."""
    if is_gguf(source):
        return GGUFFile(source)
    if is_hf_folder(source):
        return HFFolder(source)
    there = "it has no config.json" if source.is_dir() else "there is no such folder"
    hint = "give the folder that holds config.json, or a GGUF file"
    if source.is_file():
        there = "it is another file"
    elif (source / "plan.json").is_file():
        there = "it is a folder of llmspec's own, which needs no import"
    elif found := sorted(path.name for path in source.glob("*.gguf")):
        hint = f"give the file {source / found[0]}"
    raise RunError(f"{source} is no Hugging Face folder: {there}", hint=hint)


def beside(tokenizer: Any) -> Any:
    """A tokenizer of a file, whose file is the tokenizer.json of the model's own folder."""
    fields = type(tokenizer).model_fields
    return tokenizer.model_copy(update={k: v for k, v in FILES.items() if k in fields})


def spec_text(plan: Plan, source: Path) -> str:
    """The spec that describes the model, as YAML."""
    settings = plan.settings()
    keys = ("name", "model", "tokenizer", "chat_template", "decoding")
    found = {key: _given(settings[key]) for key in keys}
    about = (
        f"# The model of {source.resolve().name}. To train it further, add `data:` and a phase with\n"
        "# `from: {model: FOLDER}`, FOLDER being the one that holds this file.\n"
    )
    return about + to_yaml(found)


def _given(value: Any) -> Any:
    """Without the keys that are left open."""
    if isinstance(value, dict):
        return {k: _given(v) for k, v in value.items() if v is not None and v != {} and v != []}
    return value
