"""A model without a run: its plan, tokenizer and weights in one folder, which can be copied and opened anywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError

from llmspec.compiler.plan import Plan
from llmspec.core.hashing import digest
from llmspec.core.problems import RunError
from llmspec.core.quantised import Quantised
from llmspec.parts.base import Frozen
from llmspec.parts.sources.base import Attribution
from llmspec.parts.tokenizers.base import Codec
from llmspec.runs import tensors
from llmspec.runs.files import new_folder, read_errors, read_json, write_json, write_text
from llmspec.runs.run import RunFolder
from llmspec.runs.stored import PLAN, TOKENIZER, StoredModel, Taught, said

NOTES, WEIGHTS = "model.json", "model.safetensors"


class SourceNotes(Frozen):
    """Licence of a source of training text, and whom to name for it."""

    license: str
    attribution: str


class ModelNotes(Frozen):
    """model.json: what belongs to a model beside its plan, and the hashes of the files beside it."""

    format: Literal[1]
    """Changes when the folder's files mean something else."""
    phase: str = Field(min_length=1, max_length=200)
    """Name of the phase that made the weights."""
    chat: bool
    """Whether the model answers a user's turn, rather than continue a text."""
    pairs: bool = False
    """Whether it says the target of a source, as phases of pairs teach."""
    makes: str = Field("", max_length=40)
    """What it was trained for last, as a sort of artifact; '' where nobody knows."""
    head: str = Field("", max_length=200)
    """The head that was trained last."""
    framed: bool = False
    """Whether a text of its own stands between special tokens."""
    weights: str
    """sha256 of model.safetensors."""
    tokenizer: str
    """Digest of tokenizer.json."""
    origin: str = Field("", max_length=200)
    """Mapping table of the format that the model was imported from; '' where it was trained here."""
    sources: dict[str, SourceNotes] = Field(default_factory=dict)
    """What the model has read, by the sources' names."""
    types: dict[str, str] = Field(default_factory=dict)
    """Names of quantised tensors -> their type, as core.weight_types names it; the others are float32."""


class ModelFolder(StoredModel):
    """A folder with plan.json (of a spec without data and phases), tokenizer.json, model.safetensors and model.json."""

    again: ClassVar[str] = "copy the folder again from where it was written"

    @cached_property
    def notes(self) -> ModelNotes:
        """What model.json says. Raises RunError where it is damaged or of another version."""
        path = self.path / NOTES
        try:
            return ModelNotes.model_validate(read_json(path))
        except ValidationError as e:
            raise RunError(
                f"{path} cannot be read: {said(e)}",
                hint=f"it is damaged or was written by another version; {self.again}",
                consequence="the other files could not be verified",
            ) from None

    def unfit(self, plan: Plan) -> str:
        return "it is the plan of a run, with phases" if plan.phases or plan.sources else ""

    def tokenizer_again(self) -> str:
        return self.again

    def tokenizer_noted(self) -> tuple[str, str | None]:
        return NOTES, self.notes.tokenizer

    def weights(self, plan: Plan, phase: str | None = None) -> tuple[str, dict[str, Any], list[str]]:
        """Raises RunError where they are missing, damaged, or not those of the plan, and for a phase asked for: the
        folder has the weights of one, and no choice."""
        path, notes = self.path / WEIGHTS, self.notes
        if phase not in (None, notes.phase):
            raise RunError(
                f"{self.path} has no phase {phase}: it is a model without a run",
                hint=f"its weights are those of {notes.phase}",
            )
        with read_errors(path):
            try:
                found, hashed = tensors.read(path, {t.name: t.shape for t in plan.model.tensors}, notes.types)
            except FileNotFoundError:
                raise RunError(f"{path} is missing", hint=self.again) from None
            except tensors.WrongTensors as e:
                raise RunError(
                    f"{path} does not belong here: {e}",
                    hint=self.again,
                    consequence="the model would compute with wrong weights",
                ) from None
        if hashed != notes.weights:
            raise RunError(
                f"{path} is damaged, or of another model: {NOTES} has another hash of it",
                hint=self.again,
                consequence="the model would write other text than it learned",
            )
        return notes.phase, found, []

    def chat(self, plan: Plan, phase: str) -> bool:
        return self.notes.chat

    def pairs(self, plan: Plan, phase: str) -> bool:
        return self.notes.pairs

    def taught(self, plan: Plan, codec: Codec, phase: str) -> Taught:
        return Taught(self.notes.makes, self.notes.head, self.notes.framed)

    def attributions(self, plan: Plan) -> tuple[Attribution, ...]:
        return tuple(Attribution(name, found.license, found.attribution) for name, found in self.notes.sources.items())


def stored_model(path: Path) -> StoredModel:
    """The folder of a model: with a run around it or without. Raises RunError where it is neither."""
    return ModelFolder(path) if is_model_folder(path) else RunFolder.open(path)


def is_model_folder(path: Path) -> bool:
    """Whether a folder says that it is a model without a run."""
    return os.path.lexists(path / NOTES)


def save_model(
    path: Path,
    plan: Plan,
    tokenizer: str,
    weights: Mapping[str, Any],
    *,
    phase: str,
    chat: bool,
    attributions: Sequence[Attribution] = (),
    origin: str = "",
    more: Mapping[str, str] | None = None,
    pairs: bool = False,
    taught: Taught = Taught(),  # noqa: B008  # a record that nothing changes
) -> ModelFolder:
    """Writes a model into a new folder, aside and renamed once it is whole: `tokenizer` is the text of tokenizer.json,
    `weights` are float32 arrays, or Quantised, by the names of the plan's tensors, `more` further texts by the names of
    their files.

    Raises RunError where something stands there already, or the folder cannot be written.
    """
    # What a phase froze is that phase's own.
    free = tuple(t.model_copy(update={"trainable": True}) for t in plan.model.tensors)
    model = plan.model.model_copy(update={"tensors": free})
    plan = plan.model_copy(update={"model": model, "sources": (), "phases": (), "decisions": (), "base": "."})
    with new_folder(path) as aside:
        notes = ModelNotes(
            format=1,
            phase=phase,
            chat=chat,
            pairs=pairs,
            **taught._asdict(),
            weights=tensors.write(aside / WEIGHTS, {t.name: weights[t.name] for t in plan.model.tensors}),
            tokenizer=digest(tokenizer),
            origin=origin,
            sources={a.source: SourceNotes(license=a.license, attribution=a.attribution) for a in attributions},
            types={t.name: w.type for t in plan.model.tensors if isinstance(w := weights[t.name], Quantised)},
        )
        write_text(aside / TOKENIZER, tokenizer)
        write_json(aside / PLAN, plan.dump())
        write_json(aside / NOTES, notes.model_dump(mode="json"))
        for name, text in (more or {}).items():
            write_text(aside / name, text)
    return ModelFolder(path)
