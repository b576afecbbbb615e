"""A GGUF file as a model without a run: its spec, plan, tokenizer and weights. Nothing in it is believed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from llmspec.compiler import compile_spec
from llmspec.compiler.plan import Plan
from llmspec.core.problems import DataError, Problem, RunError, SpecError
from llmspec.formats.gguf import rope, weights
from llmspec.formats.gguf.files import SUFFIX, Files
from llmspec.formats.gguf.kept import kept
from llmspec.formats.gguf.metadata import ARCHITECTURE, Found, read_metadata
from llmspec.formats.gguf.tables import Table
from llmspec.formats.gguf.tokenizers import TEMPLATE, Tokenizing
from llmspec.formats.hf.importing import spec_of
from llmspec.parts.sources.base import Attribution
from llmspec.runs.stored import StoredModel

PHASE = "imported"
"""What stands for the name of the phase that made the weights."""
SAMPLING = "general.sampling."
DECODING: Mapping[str, str] = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
"""What stands behind `general.sampling.` -> key of `decoding:`."""
Progress = Callable[[str, float, float], None]


class GGUFFile(StoredModel):
    """A GGUF file, or the first of several that are one model."""

    again: ClassVar[str] = "download the file again"

    @cached_property
    def files(self) -> Files:
        """The files as one table of tensors. Raises RunError."""
        return Files(self.path)

    @cached_property
    def read(self) -> Found:
        """What metadata say of the network. Raises RunError with everything in them that is not understood."""
        factors = None
        if rope.FREQUENCIES in self.files.tensors:
            factors = self.files.quantised(rope.FREQUENCIES).dequantised().tolist()
        found = read_metadata(self.files.metadata, self.files.tensors, factors, str(self.path))
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
        """The mapping table's name; folders of transformers with the same network have it, too."""
        return self.table.transformers

    @property
    def architecture_name(self) -> str:
        """`general.architecture`."""
        return str(self.files.metadata[ARCHITECTURE])

    # -- spec and plan -------------------------------------------------------------------------------------------------
    def settings(self) -> dict[str, Any]:
        """The spec that describes the model, as plain data; paths are relative to the folder of its tokenizer."""
        template = self.files.metadata.get(TEMPLATE)
        given = {"chat_template": {"kind": "jinja", "template": template}} if isinstance(template, str) else {}
        return {
            "name": re.sub(r"[^A-Za-z0-9._-]+", "-", self.path.name.removesuffix(SUFFIX)).strip("-._") or "model",
            "model": self.read.model,
            "tokenizer": self.tokenizing.settings,
            **given,
            "decoding": self.decoding(),
        }

    def decoding(self) -> dict[str, Any]:
        """`decoding:` as far as metadata say it."""
        found = {}
        for name, key in DECODING.items():
            value = self.files.metadata.get(SAMPLING + name)
            if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
                found[key] = int(value) if key == "top_k" else float(value)
        return found

    @cached_property
    def _plan(self) -> Plan:
        try:
            return compile_spec(spec_of(self.settings(), self.path, "its metadata"), base=str(self._tokenizer[0]))
        except (SpecError, DataError) as error:
            problems = [Problem(f"{self.path}: {p.message}", hint=p.hint) for p in error.problems]
            raise RunError(problems) from None

    def plan(self) -> Plan:
        """Raises RunError with everything that is not understood, or does not fit together."""
        return self._plan

    def unfit(self, plan: Plan) -> str:
        return ""

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

    def tokenizer_again(self) -> str:
        return self.again

    def tokenizer_noted(self) -> tuple[str, str | None]:
        return self.path.name, None

    # -- weights -------------------------------------------------------------------------------------------------------
    def weights(
        self, plan: Plan, phase: str | None = None, progress: Progress = lambda what, done, total: None
    ) -> tuple[str, dict[str, Any], list[str]]:
        """Matrices in the types in which they lie in the file, everything else as float32.

        Raises RunError for tensors that are missing, left over or of another shape, numbers that are not finite, and
        for a phase asked for."""
        if phase not in (None, PHASE):
            raise RunError(f"{self.path} has no phase {phase}: it is a model of others, without a run")
        found = weights.load(
            self.files, self.table, plan.model, lambda done, total: progress("reading weights", done, total)
        )
        return PHASE, found, self.notices()

    def notices(self) -> list[str]:
        """What of the file was not taken over."""
        found = []
        if self.read.ignored:
            found.append(f"metadata that cannot change what is computed: {', '.join(sorted(self.read.ignored))}")
        named = sorted(k.removeprefix(f"{TEMPLATE}.") for k in self.files.metadata if k.startswith(f"{TEMPLATE}."))
        if named:
            found.append(f"further chat templates, which are not used: {', '.join(named)}")
        return found

    def chat(self, plan: Plan, phase: str) -> bool:
        return isinstance(self.files.metadata.get(TEMPLATE), str)

    def attributions(self, plan: Plan) -> tuple[Attribution, ...]:
        return ()


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
