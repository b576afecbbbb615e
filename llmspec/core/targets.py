"""GPUs that kernels can be made for where there is none: what `check --device` names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmspec.core.problems import Problem, SpecError

DEFAULTS = {"CUDA": "sm_90", "METAL": "Apple7"}
"""Architectures for a bare name: H100's, and the first of Apple's M series."""
ARCHITECTURES = {"CUDA": r"sm_(\d{2,3})a?", "METAL": r"Apple(\d+)"}
BFLOAT16_FROM = {"CUDA": 80, "METAL": 6}
"""The first architecture of each kind that has bfloat16."""


@dataclass(frozen=True)
class Target:
    """A kind of GPU: `CUDA` or `METAL`, and its architecture, such as `sm_90`."""

    device: str
    architecture: str

    @property
    def name(self) -> str:
        return f"{self.device}:{self.architecture}"

    def refuse(self, precision: str) -> None:
        """Raises SpecError where this architecture has no such numbers."""
        number = re.fullmatch(ARCHITECTURES[self.device], self.architecture)
        first = BFLOAT16_FROM[self.device]
        if precision == "bfloat16" and number and int(number[1]) < first:
            raise SpecError(
                [
                    Problem(
                        f"{self.name} has no bfloat16",
                        ("precision",),
                        f"`precision: float16`, or {self.device} from "
                        f"{'sm_' if self.device == 'CUDA' else 'Apple'}{first} on",
                        "its kernels would not compile",
                    )
                ]
            )


def parse(text: str) -> Target:
    """`CUDA`, `CUDA:sm_90`, `METAL`, `METAL:Apple8`. Raises SpecError for anything else."""
    device, _, architecture = text.partition(":")
    device = device.upper()
    if device not in DEFAULTS:
        raise SpecError(
            [Problem(f"kernels for `{text}` cannot be made here", (), "--device CUDA:sm_90 or --device METAL")]
        )
    if architecture and not re.fullmatch(ARCHITECTURES[device], architecture):
        raise SpecError(
            [
                Problem(
                    f"{device} has no architecture called `{architecture}`",
                    (),
                    f"such as --device {device}:{DEFAULTS[device]}",
                )
            ]
        )
    return Target(device, architecture or DEFAULTS[device])
