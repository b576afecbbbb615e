"""A GGUF file as a model without a run: its spec, plan, tokenizer and weights. Nothing in it is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.problems import Problem, RunError
from llmspec.formats.foreign import ForeignModel, named
from llmspec.formats.gguf import rope, weights
from llmspec.formats.gguf.files import SUFFIX, Files
from llmspec.formats.gguf.kept import kept
from llmspec.formats.gguf.metadata import ARCHITECTURE, Found, read_metadata
from llmspec.formats.gguf.reading import WrongGGUF, damaged
from llmspec.formats.gguf.tables import Table
from llmspec.formats.gguf.tokenizers import TEMPLATE, Tokenizing

SAMPLING = "general.sampling."
DECODING: Mapping[str, str] = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""What stands behind `general.sampling.` -> key of `decoding:`."""
UNSAID: Mapping[str, float] = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
"""How a file is drawn from that says nothing of it: as llama.cpp does by default (common/common.h). Small models write
nonsense at temperature 1."""


class GGUFFile(ForeignModel):
    """A GGUF file, or the first of several that are one model."""

    again: ClassVar[str] = "download the file again"
    described_in: ClassVar[str] = "metadata"

    @cached_property
    def files(self) -> Files:
        """The files as one table of tensors. Raises RunError."""
        return Files(self.path)

    @cached_property
    def found(self) -> Found | list[Problem]:
        """What metadata say of the network, and what of that is not understood; the problems alone where no table has
        such an architecture. Raises RunError for a damaged file."""
        factors = None
        if rope.FREQUENCIES in self.files.tensors:
            factors = self.files.quantised(rope.FREQUENCIES).dequantised().tolist()
        try:
            return read_metadata(self.files.metadata, self.files.tensors, factors, str(self.path))
        except WrongGGUF as error:  # a text that is none, which is seen as it is gone through
            raise damaged(self.path, str(error)) from None

    @property
    def read(self) -> Found:
        """What metadata say of the network. Raises RunError with everything in them that is not understood."""
        found = self.found
        problems = found if isinstance(found, list) else found.problems
        if problems or isinstance(found, list):
            raise RunError(problems)
        return found

    @property
    def table(self) -> Table:
        """The mapping table."""
        assert isinstance(self.read.family, Table)
        return self.read.family

    @property
    def origin(self) -> str:
        return self.table.transformers

    @property
    def architecture_name(self) -> str:
        """`general.architecture`."""
        return str(self.files.metadata[ARCHITECTURE])

    # -- spec and plan -------------------------------------------------------------------------------------------------
    def settings(self) -> dict[str, Any]:
        template = self.files.metadata.get(TEMPLATE)
        given = {"chat_template": {"kind": "jinja", "template": template}} if isinstance(template, str) else {}
        return {
            "name": named(self.path.name.removesuffix(SUFFIX)),
            "model": self.read.model,
            "tokenizer": self.tokenizing.settings,
            **given,
            "decoding": self.decoding(),
        }

    def decoding(self) -> dict[str, Any]:
        """`decoding:` as metadata say it; llama.cpp's defaults where they say nothing."""
        found = dict[str, Any]()
        for name, key in DECODING.items():
            value = self.files.metadata.get(SAMPLING + name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if value > 0 or (value == 0 and key == "temperature"):  # other zeros are llama.cpp's word for off
                found[key] = int(value) if key == "top_k" else float(value)
        return found or dict(UNSAID)

    def base(self) -> Path:
        return self._tokenizer[0]

    # -- tokenizer -----------------------------------------------------------------------------------------------------
    @cached_property
    def _tokenizer(self) -> tuple[Path, Tokenizing]:
        return kept(self.files.first)

    @property
    def tokenizing(self) -> Tokenizing:
        """The tokenizer in the metadata. Raises RunError."""
        return self._tokenizer[1]

    def tokenizer(self, plan: Plan) -> Any:
        """The codec of the file's own tokenizer. Raises RunError where it has more ids than the model."""
        codec = plan.tokenizer.at(plan.base).train(())
        if codec.vocab > plan.model.vocab:
            raise RunError(
                f"{self.path} has a tokenizer of {codec.vocab:,} ids, and a model of {plan.model.vocab:,}",
                hint="download it again, whole",
                consequence="some ids would stand for no row of the embedding",
            )
        return codec

    def tokenizer_noted(self) -> tuple[str, str | None]:
        return self.path.name, None

    # -- weights -------------------------------------------------------------------------------------------------------
    def read_weights(
        self, model: ModelPlan, progress: Callable[[float, float], None]
    ) -> tuple[dict[str, Any], list[str]]:
        """Matrices in the types in which they lie in the file, everything else as float32."""
        return weights.load(self.files, self.table, model, progress), []

    def types(self) -> dict[str, str]:
        """The types of the matrices that stay as they lie in the file, by our names. Raises RunError."""
        return weights.types(self.files, self.table, self.plan().model)

    def notices(self) -> list[str]:
        found = []
        if self.read.ignored:
            found.append(f"metadata that cannot change what is computed: {', '.join(sorted(self.read.ignored))}")
        named = sorted(k.removeprefix(f"{TEMPLATE}.") for k in self.files.metadata if k.startswith(f"{TEMPLATE}."))
        if self.decoding() == UNSAID:
            said = ", ".join(f"{key} {value:g}" for key, value in UNSAID.items())
            found.append(f"the file does not say how to draw from it: as llama.cpp does by default ({said})")
        if named:
            found.append(f"further chat templates, which are not used: {', '.join(named)}")
        return found

    def chat(self, plan: Plan, phase: str) -> bool:
        return isinstance(self.files.metadata.get(TEMPLATE), str)


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that says it is GGUF: by its name, or by its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with open(path, "rb") as f:
            return f.read(4) == b"GGUF"
    except OSError:
        return False
