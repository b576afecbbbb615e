"""What `run --certify` found: whether phases that are stopped go on bit for bit, here and with these settings."""

from __future__ import annotations

import json
import os
from pathlib import Path

from llmspec.core.run_names import CERTIFICATE
from llmspec.parts.base import Frozen
from llmspec.runs.files import read_json, write_json


class PhaseCertificate(Frozen):
    """One phase on a short budget, once at a stretch and once stopped and resumed."""

    name: str
    kind: str
    key: str
    """Of the phase itself, whose budget was not shortened."""
    steps: int
    """Of the short budget, or those after which it ended early."""
    stopped_after: tuple[int, ...]
    """Steps after which it was stopped."""
    compared: int
    """Bytes that were compared: weights, optimizer state, place in the data, rows of metrics and samples."""
    differing: tuple[str, ...]
    """Files that were not equal."""

    @property
    def holds(self) -> bool:
        return not self.differing


class Certificate(Frozen):
    """All phases of a run, and where that was found out."""

    device: str
    products: str
    """What multiplies matrices on a CPU."""
    version: str
    """Of llmspec's sources: what was found with others may not hold."""
    phases: tuple[PhaseCertificate, ...]

    def write(self, run: Path) -> None:
        """Into a run directory. Raises RunError."""
        write_json(run / CERTIFICATE, self.model_dump(mode="json"))

    @classmethod
    def read(cls, run: Path) -> Certificate | None:
        """That of a run directory; None where there is none, or one that this version does not read. Raises RunError
        where the file cannot be read at all."""
        path = run / CERTIFICATE
        if not os.path.lexists(path):
            return None
        try:
            return cls.model_validate_json(json.dumps(read_json(path)))
        except ValueError:
            return None
