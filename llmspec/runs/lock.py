"""What a run was made of, so that it can be made again: lock.json, and what differs between two of them."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from llmspec.compiler.plan import Plan
from llmspec.core.hashing import digest
from llmspec.core.problems import Problem, RunError
from llmspec.parts.base import Frozen, revisions_of
from llmspec.runs.files import read_json

PACKAGES = ("llmspec", "tinygrad", "numpy", "tokenizers", "safetensors")
LOCK = "lock.json"


class LockDifference(NamedTuple):
    """Something that is not as it was; '' where it was not there, or is not there now."""

    what: str
    was: str
    now: str


class Lock(Frozen):
    """Everything that a run's result follows from. Hashes are sha256 (hex)."""

    spec: dict[str, str]
    """Section of the resolved spec (`model`, `data.sources.wiki`, `phases.chat` ...) -> hash."""
    data: dict[str, str]
    """Source -> hash of its documents."""
    tokenizer: str
    """Hash of the trained tokenizer."""
    parts: dict[str, int]
    """Part (`attentions.multi_head`) -> its revision, which changes when its meaning does."""
    packages: dict[str, str]
    """Package -> version."""
    device: str
    seed: int
    python: str
    """Version."""
    machine: str
    """Architecture, such as `x86_64`."""
    system: str
    """Operating system, such as `Linux`."""
    products: str = ""
    """What multiplies matrices on a CPU, whose order of sums the last bits follow; '' on other devices, and in locks
    of before this was written down."""

    @classmethod
    def of(cls, plan: Plan, contents: Mapping[str, str], tokenizer: str) -> Lock:
        """The lock of a plan on this machine: `contents` are the hashes of its sources, `tokenizer` its text.

        Raises ToolchainError where a CPU has no compiler.
        """
        return cls(
            spec=sections(plan),
            data=dict(contents),
            tokenizer=digest(tokenizer),
            parts=revisions(plan),
            packages={name: version(name) for name in PACKAGES},
            device=plan.device,
            seed=plan.seed,
            python=platform.python_version(),
            machine=platform.machine(),
            system=platform.system(),
            products=products_of(plan.device),
        )

    @classmethod
    def read(cls, path: Path) -> Lock:
        """The lock in a file, or in a run directory. Raises RunError where there is none that can be read."""
        path = path / LOCK if path.is_dir() else path
        if not path.is_file():
            raise RunError(
                f"there is no lock at {path}",
                hint="run once without --locked, which writes lock.json into the run folder, or name one with --lock",
                consequence="nothing would say what the run has to be made of",
            )
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as e:
            wrong = ", ".join(sorted({".".join(map(str, error["loc"])) for error in e.errors()}))
            raise RunError(
                f"{path} is not a lock file that this version reads ({wrong})",
                hint="run once without --locked, which rewrites it",
            ) from None


def sections(plan: Plan) -> dict[str, str]:
    """Hash of each section of the resolved spec. Seed and device are left out: a lock shows them as they are."""
    found = plan.settings()
    model = {**found["model"], "tensors": [t.model_dump(mode="json") for t in plan.model.tensors]}
    whole = ("name", "precision", "beam", "tokenizer", "chat_template", "decoding")
    values = {k: found[k] for k in whole} | {"model": model}
    values |= {f"data.sources.{name}": source for name, source in found["data"]["sources"].items()}
    values |= {f"data.{key}": value for key, value in found["data"].items() if key != "sources"}
    values |= {f"phases.{name}": phase for name, phase in found["phases"].items()}
    return {name: digest(value) for name, value in values.items()}


def revisions(plan: Plan) -> dict[str, int]:
    """Revision of every part in use."""
    return revisions_of([plan, plan.decoding.chain()])


def products_of(device: str) -> str:
    """What multiplies matrices on a CPU; '' for other devices. Raises ToolchainError without a compiler."""
    if not device.startswith("CPU"):
        return ""
    from llmspec.backends.cpu.products import provider

    return provider().name


def version(package: str) -> str:
    """The installed version, or 'not installed' (a checkout that was never installed)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# -- what differs --------------------------------------------------------------------------------------------------
def differences(was: Lock, now: Lock) -> list[LockDifference]:
    """Everything that is not the same, in the order of the fields; empty for equal locks."""
    found = []
    for field in type(was).model_fields:
        old, new = getattr(was, field), getattr(now, field)
        if "" in (old, new):  # not known of one of them
            continue
        if not isinstance(old, dict):
            old, new = {"": old}, {"": new}
        for key in (*old, *(k for k in new if k not in old)):
            if old.get(key) != new.get(key):
                name = f"{field}.{key}" if key else field
                found.append(LockDifference(name, *(str(side[key]) if key in side else "" for side in (old, new))))
    return found


ADVICE = {
    "spec": "bring the spec back to what it was (the run directory keeps it under spec/), or train it elsewhere: --out",
    "data": "bring the documents back to what they were",
    "tokenizer": "it follows from the training text, the spec and the package `tokenizers`",
    "parts": "run it with the version of llmspec that wrote the lock",
    "packages": "pip install {name}=={was}",
    "device": "--set device={was}, on a machine that has it",
    "seed": "--set seed={was}",
    "python": "use Python {was}",
    "machine": "use a machine of that architecture",
    "system": "use that operating system",
    "products": "use a processor with the same instructions: others sum up in another order",
}
HASHED = ("spec", "data", "tokenizer")


def refused(found: list[LockDifference]) -> RunError:
    """The error of a run that its lock forbids: a problem for each difference, in plain words."""
    problems = []
    for what, was, now in found:
        field, _, name = what.partition(".")
        subject = {
            "spec": name,
            "data": f"the text of {name}",
            "tokenizer": "the trained tokenizer",
            "parts": f"the part {name}",
            "packages": f"the package {name}",
            "products": "what multiplies matrices",
        }.get(field, f"the {field}")
        if not was:
            message = f"{subject} is new: the lock does not know it"
        elif not now:
            message = f"{subject} is missing: the lock has it"
        elif field in HASHED:
            message = f"{subject} has changed ({was[:8]} in the lock, {now[:8]} now)"
        else:
            message = f"{subject} is {'at revision ' if field == 'parts' else ''}{now}, and {was} in the lock"
        problems.append(
            Problem(
                message,
                hint=ADVICE[field].format(name=name, was=was or "nothing"),
                consequence="the result would not be that of the locked run",
            )
        )
    return RunError(problems)
