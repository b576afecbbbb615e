"""What a model can be opened from: runs, models without a run, and folders and files of others."""

from __future__ import annotations

from pathlib import Path

from llmspec.formats.gguf.importing import GGUFFile, is_gguf
from llmspec.formats.hf.importing import HFFolder, is_hf_folder
from llmspec.formats.peft import PEFTFolder, is_peft
from llmspec.runs import model_folder
from llmspec.runs.stored import StoredModel


def is_model(path: Path) -> bool:
    """Whether a path is a model without a run, of ours or of others."""
    return model_folder.is_model_folder(path) or is_hf_folder(path) or is_gguf(path) or is_peft(path)


def stored_model(path: Path) -> StoredModel:
    """The folder of a model, with a run around it or without, or one of transformers; or a GGUF file.

    Raises RunError where it is none."""
    if is_gguf(path):
        return GGUFFile(path)
    if is_peft(path):
        return PEFTFolder(path, lambda base: stored_model(base) if is_model(base) else None)
    return HFFolder(path) if is_hf_folder(path) else model_folder.stored_model(path)
