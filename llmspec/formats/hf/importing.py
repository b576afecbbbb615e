"""A Hugging Face folder as a model without a run: its spec, plan, tokenizer and weights. Nothing in it is believed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from llmspec.compiler import compile_spec
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.problems import DataError, Problem, RunError, SpecError
from llmspec.formats.hf import generation, names, sentence
from llmspec.formats.hf.family import Architecture, Family
from llmspec.formats.hf.reading import Read, read_config
from llmspec.formats.hf.weights import Files, check, load
from llmspec.parts.sources.base import Attribution
from llmspec.runs.files import read_json
from llmspec.runs.stored import StoredModel, said
from llmspec.spec.schema import Spec

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
PHASE = "imported"
"""What stands for the name of the phase that made the weights."""
Progress = Callable[[str, float, float], None]


class HFFolder(StoredModel):
    """A folder that transformers wrote: config.json, weights in one or many safetensors files, tokenizer files."""

    again: ClassVar[str] = "download the folder again"

    @cached_property
    def read(self) -> Read:
        """What config.json says. Raises RunError with everything in it that is not understood."""
        config = read_json(self.path / CONFIG)
        if not isinstance(config, dict):
            raise RunError(f"{self.path / CONFIG} is damaged: it holds no map")
        found = read_config(config, str(self.path / CONFIG))
        problems = found if isinstance(found, list) else found.problems
        if problems or isinstance(found, list):
            raise RunError(problems)
        if self.sentence is not None:
            found.model["heads"] = {"vector": self.sentence.head}
        return found

    @cached_property
    def sentence(self) -> sentence.Sentence | None:
        """What files of sentence-transformers say beside it. Raises RunError."""
        return sentence.read(self.path)

    @cached_property
    def family(self) -> Family:
        found = self.read.family
        if self.sentence is None:
            return found
        unused = (*found.tensors.ignored, *sentence.UNUSED)
        return found.model_copy(update={"tensors": found.tensors.model_copy(update={"ignored": unused})})

    @property
    def architecture(self) -> Architecture:
        return self.family.architectures[self.read.architecture]

    @property
    def origin(self) -> str:
        """The mapping table's name."""
        return self.family.model_type

    @property
    def architecture_name(self) -> str:
        """The class of transformers."""
        return self.read.architecture

    # -- spec and plan -------------------------------------------------------------------------------------------------
    def settings(self) -> dict[str, Any]:
        """The spec that describes the model, as plain data; paths are relative to the folder."""
        return {
            "name": re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.resolve().name).strip("-._") or "model",
            "model": self.read.model,
            "tokenizer": self.tokenizer_settings(),
            **generation.template_settings(self.path),
            "decoding": generation.decoding(self.path).settings,
        }

    def tokenizer_settings(self) -> dict[str, Any]:
        """The `tokenizer:` of the spec. Raises RunError where the folder has none that is read here."""
        if os.path.lexists(self.path / TOKENIZER):
            return {"kind": "huggingface", "file": TOKENIZER}
        if os.path.lexists(self.path / "vocab.json") and os.path.lexists(self.path / "merges.txt"):
            return {"kind": "huggingface", "file": "vocab.json", "merges": "merges.txt"}
        if os.path.lexists(self.path / "vocab.txt"):
            return {"kind": "huggingface", "file": "vocab.txt"}
        raise RunError(
            f"{self.path} has no tokenizer: neither {TOKENIZER} nor vocab.json with merges.txt nor vocab.txt",
            hint="put the tokenizer's files beside config.json",
            consequence="no text could be read",
        )

    @cached_property
    def _plan(self) -> Plan:
        try:
            return compile_spec(spec_of(self.settings(), self.path), base=str(self.path.resolve()))
        except (SpecError, DataError) as error:
            problems = [Problem(f"{self.path}: {p.message}", hint=p.hint) for p in error.problems]
            raise RunError(problems) from None

    def plan(self) -> Plan:
        """Raises RunError with everything that is not understood, or does not fit together."""
        return self._plan

    def unfit(self, plan: Plan) -> str:
        return ""

    # -- tokenizer -----------------------------------------------------------------------------------------------------
    def tokenizer(self, plan: Plan) -> Any:
        """The codec of the folder's own files. Raises DataError, and RunError where config.json names other tokens."""
        codec = plan.tokenizer.at(plan.base).train(())
        for meaning, token in self.read.tokens.items():
            if (own := codec.specials.find(meaning)) != token:
                raise RunError(
                    f"{self.path / CONFIG}: `{meaning}_token_id` is {token}, and the tokenizer's is {own}",
                    hint="take both files of the same model",
                    consequence="the decoder's text would begin with another token",
                )
        return codec

    def tokenizer_again(self) -> str:
        return self.again

    def tokenizer_noted(self) -> tuple[str, str | None]:
        return CONFIG, None

    # -- weights -------------------------------------------------------------------------------------------------------
    def weights(
        self, plan: Plan, phase: str | None = None, progress: Progress = lambda what, done, total: None
    ) -> tuple[str, dict[str, Any], list[str]]:
        """Raises RunError for files that are missing or damaged, tensors that are missing, left over or of another
        shape, numbers that are not finite, and for a phase asked for."""
        if phase not in (None, PHASE):
            raise RunError(f"{self.path} has no phase {phase}: it is a model of others, without a run")
        files = Files(self.path)
        files.rename(self.family.tensors.renamed)
        groups = self.groups(plan.model, files)
        notices = check(
            files,
            groups,
            self.family,
            tied(plan.model, self.family, self.architecture, groups),
            self.architecture.unused,
        )
        found = load(files, groups, lambda done, total: progress("reading weights", done, total))
        return PHASE, found, [*notices, *self.notices()]

    def groups(self, model: ModelPlan, files: Files) -> list[names.Group]:
        prefix = self.family.tensors.prefix
        prefixed = not prefix or any(n.startswith(prefix) for n in files.entries)
        return names.groups(self.family, self.architecture, model, prefixed)

    def notices(self) -> list[str]:
        """What of the folder was not taken over."""
        read, found = self.read, []
        if read.training:
            found.append(f"only training in transformers used: {', '.join(sorted(read.training))}")
        if read.ignored:
            found.append(f"fields of {CONFIG} that cannot change what is computed: {', '.join(sorted(read.ignored))}")
        if left := generation.decoding(self.path).left:
            found.append(f"not taken over from {generation.FILE}: {', '.join(left)}")
        if self.sentence is not None:
            found += self.sentence.left
        return found

    def chat(self, plan: Plan, phase: str) -> bool:
        return generation.has_template(self.path)

    def attributions(self, plan: Plan) -> tuple[Attribution, ...]:
        return ()


def is_hf_folder(path: Path) -> bool:
    """Whether a path is a folder with a config.json and no plan of ours."""
    return path.is_dir() and os.path.lexists(path / CONFIG) and not os.path.lexists(path / "plan.json")


def spec_of(settings: dict[str, Any], path: Path, file: str = CONFIG) -> Spec:
    """The typed spec. Raises RunError where a value, of which `file` says most, is none that a spec can have."""
    try:
        return Spec.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        raise RunError(
            f"{path}: what its files say cannot be a model: {said(error)}",
            hint=f"{file} may be damaged",
        ) from None


def tied(model: ModelPlan, family: Family, architecture: Architecture, groups: list[names.Group]) -> dict[str, str]:
    """Names that a file may have although the model shares them -> the tensor whose numbers they are."""
    ours = {t.name for t in model.tensors}
    embedding = next((g.theirs[0][0] for g in groups if g.ours[0][0] == "embed_tokens.weight"), "")
    found = {}
    for theirs, own in architecture.tensors.items():
        if f"{own}.weight" not in ours and own.endswith("_head"):
            found[f"{theirs}.weight"] = embedding
    return {**found, **architecture.doubled}
