"""A model that others wrote: its files say the network, the tokenizer and the weights, and a spec is made of them."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from llmspec.compiler import compile_spec
from llmspec.compiler.plan import ModelPlan, Plan
from llmspec.core.problems import DataError, Problem, RunError, SpecError
from llmspec.parts.sources.base import Attribution
from llmspec.runs.stored import StoredModel, said
from llmspec.spec.schema import Spec

PHASE = "imported"
"""What stands for the name of the phase that made the weights."""
Progress = Callable[[str, float, float], None]


class ForeignModel(StoredModel):
    """A file or a folder in a format of others. Nothing in it is believed."""

    described_in: ClassVar[str]
    """What of its files says what the network is, in words."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """The mapping table's name; one network has the same one in every format."""

    @property
    @abstractmethod
    def architecture_name(self) -> str:
        """What the format calls the network."""

    # -- spec and plan -------------------------------------------------------------------------------------------------
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The spec that describes the model, as plain data; paths are relative to `base`."""

    @abstractmethod
    def base(self) -> Path:
        """The folder that holds the tokenizer's files."""

    @cached_property
    def _plan(self) -> Plan:
        try:
            return compile_spec(self._spec(), base=str(self.base()))
        except (SpecError, DataError) as error:
            problems = [Problem(f"{self.path}: {p.message}", hint=p.hint) for p in error.problems]
            raise RunError(problems) from None

    def _spec(self) -> Spec:
        text = json.dumps(self.settings())
        try:
            return Spec.model_validate_json(text)
        except ValidationError as error:
            raise RunError(
                f"{self.path}: what its files say cannot be a model: {said(error)}",
                hint=f"its {self.described_in} may be damaged",
            ) from None

    def plan(self) -> Plan:
        """Raises RunError with everything that is not understood, or does not fit together."""
        return self._plan

    def unfit(self, plan: Plan) -> str:
        return ""

    def tokenizer_again(self) -> str:
        return self.again

    def attributions(self, plan: Plan) -> tuple[Attribution, ...]:
        return ()

    # -- weights -------------------------------------------------------------------------------------------------------
    def weights(
        self, plan: Plan, phase: str | None = None, progress: Progress = lambda what, done, total: None
    ) -> tuple[str, dict[str, Any], list[str]]:
        """Raises RunError for files that are missing or damaged, tensors that are missing, left over or of another
        shape, numbers that are not finite, and for a phase asked for."""
        if phase not in (None, PHASE):
            raise RunError(f"{self.path} has no phase {phase}: it is a model of others, without a run")
        found, notices = self.read_weights(plan.model, lambda done, total: progress("reading weights", done, total))
        return PHASE, found, [*notices, *self.notices()]

    @abstractmethod
    def read_weights(
        self, model: ModelPlan, progress: Callable[[float, float], None]
    ) -> tuple[dict[str, Any], list[str]]:
        """(the model's weights by our names, what there is to say of them). Raises RunError, as `weights` says."""

    @abstractmethod
    def notices(self) -> list[str]:
        """What of the files was not taken over."""


def named(name: str) -> str:
    """A name of others as a spec may have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"
