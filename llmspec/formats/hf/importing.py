"""A Hugging Face folder as a model without a run: its spec, plan, tokenizer and weights. Nothing in it is believed."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from llmspec.compiler.linear_layers import readable
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.problems import RunError
from llmspec.formats.foreign import ForeignModel, named
from llmspec.formats.hf import generation, names, sentence
from llmspec.formats.hf.family import Architecture, Family
from llmspec.formats.hf.reading import Read, read_config
from llmspec.formats.hf.weights import Files, check, load
from llmspec.runs.files import read_json, read_table

CONFIG, TOKENIZER = "config.json", "tokenizer.json"


class HFFolder(ForeignModel):
    """A folder that transformers wrote: config.json, weights in one or many safetensors files, tokenizer files."""

    again: ClassVar[str] = "download the folder again"
    described_in: ClassVar[str] = CONFIG

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
        for head in found.model.get("heads", {}).values():
            if head["kind"] in ("classes", "score") and (longest := self._longest(found.model["context"])):
                head["max_tokens"] = longest
        return found

    def _longest(self, context: int) -> int | None:
        """Tokens of a text that the tokenizer's files leave, where these are fewer than the context."""
        said = read_table(self.path / generation.TOKENIZER_CONFIG).get("model_max_length")
        return said if type(said) is int and 0 < said < context else None

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
        return self.read.of

    @property
    def origin(self) -> str:
        return self.family.model_type

    @property
    def architecture_name(self) -> str:
        """The class of transformers."""
        return self.read.architecture

    # -- spec and plan -------------------------------------------------------------------------------------------------
    def settings(self) -> dict[str, Any]:
        return {
            "name": named(self.path.resolve().name),
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

    def base(self) -> Path:
        return self.path.resolve()

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

    def tokenizer_noted(self) -> tuple[str, str | None]:
        return CONFIG, None

    # -- weights -------------------------------------------------------------------------------------------------------
    def read_weights(
        self, model: ModelPlan, progress: Callable[[float, float], None]
    ) -> tuple[dict[str, Any], list[str]]:
        files = Files(self.path)
        files.rename(self.family.tensors.renamed)
        groups = self.groups(model, files)
        notices = check(
            files,
            groups,
            self.family,
            tied(model, self.family, self.architecture, groups),
            self.architecture.unused,
        )
        return load(files, groups, readable(model), progress), notices

    def groups(self, model: ModelPlan, files: Files) -> list[names.Group]:
        prefix = self.family.tensors.prefix
        prefixed = not prefix or any(n.startswith(prefix) for n in files.entries)
        return names.groups(self.family, self.architecture, model, prefixed)

    def notices(self) -> list[str]:
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


def is_hf_folder(path: Path) -> bool:
    """Whether a path is a folder with a config.json and no plan of ours."""
    return path.is_dir() and os.path.lexists(path / CONFIG) and not os.path.lexists(path / "plan.json")


def tied(model: ModelPlan, family: Family, architecture: Architecture, groups: list[names.Group]) -> dict[str, str]:
    """Names that a file may have although the model shares them -> the tensor whose numbers they are."""
    ours = {t.name for t in model.tensors}
    embedding = next((g.theirs[0][0] for g in groups if g.ours[0][0] == "embed_tokens.weight"), "")
    found = {}
    for theirs, own in architecture.tensors.items():
        if f"{own}.weight" not in ours and own.endswith("_head"):
            found[f"{theirs}.weight"] = embedding
    return {**found, **architecture.doubled}
