"""A run directory as a value: where things stand, and what is in them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmspec.compiler.plan import PhasePlan, Plan
from llmspec.compiler.proofs import Proof
from llmspec.core.problems import RunError
from llmspec.runs.checkpoint import Checkpoint, newest
from llmspec.runs.files import Rows, read_json, write_json, write_text
from llmspec.runs.lock import LOCK, Lock

FACTS = "facts.json"


class PhaseFolder:
    """What a run keeps of one phase."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Rows(folder / "metrics.jsonl")
        """Rows {step, loss, lr, norm, tokens} or {step, validation}: the same on every run of the same plan."""
        self.timing = Rows(folder / "timing.jsonl")
        """Rows {step, seconds}: kept apart, since they never repeat."""
        self.samples = Rows(folder / "samples.jsonl")

    @property
    def about(self) -> dict[str, Any]:
        """phase.json: key, whether it is done, the ledger at its end; {} before it started."""
        return read_json(self.folder / "phase.json") if (self.folder / "phase.json").exists() else {}

    def note(self, **values: Any) -> None:
        """Adds to phase.json."""
        write_json(self.folder / "phase.json", {**self.about, **values})

    def done(self, plan: PhasePlan) -> bool:
        """Whether this very phase was trained to its end."""
        return self.about.get("key") == plan.key and bool(self.about.get("done"))

    def checkpoint(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest sound checkpoint, and notices about damaged ones."""
        return newest(self.folder)

    def set_aside(self, key: str) -> Path | None:
        """Moves away what another plan left here, keeping it; returns where it went."""
        if not self.folder.exists() or self.about.get("key") == key:
            return None
        old = self.about.get("key", "unfinished")[:8]
        target = self.folder.with_name(f"{self.folder.name}.{old}")
        number = 1
        while target.exists():
            number += 1
            target = self.folder.with_name(f"{self.folder.name}.{old}.{number}")
        self.folder.rename(target)
        return target


class RunFolder:
    """A run directory. Stands alone: `sample` and `explain` need nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run. Raises RunError where there is none."""
        if not (path / "plan.json").is_file():
            raise RunError(f"{path} is no run directory: it has no plan.json",
                           hint="give the folder that `llmspec run` wrote, or run a spec first")
        return cls(path)

    @classmethod
    def latest(cls, runs: Path) -> RunFolder:
        """The run that was written last below a folder. Raises RunError where there is none."""
        found = sorted(runs.glob("*/plan.json"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise RunError(f"there is no run in {runs}/ yet", hint="llmspec run quickstart")
        return cls(found[-1].parent)

    def phase(self, name: str) -> PhaseFolder:
        return PhaseFolder(self.path / name)

    def plan(self) -> Plan:
        """The plan of the run. Raises RunError where plan.json is damaged or of another version."""
        try:
            return Plan.parse((self.path / "plan.json").read_text("utf-8"))
        except (OSError, ValueError) as e:
            first = str(e).splitlines()[0]
            raise RunError(f"{self.path / 'plan.json'} cannot be read: {first}",
                           hint="it is damaged or was written by another version; run its spec again with --out",
                           consequence="its weights would be given another meaning") from e

    def begin(self, plan: Plan, files: dict[str, str], resolved: str, tokenizer: str, sources: dict[str, Any],
              lock: Lock, proofs: Iterable[Proof] = ()) -> None:
        """Writes what is known before step 0: the spec as written with every file it extends, resolved, planned."""
        for name, text in files.items():
            write_text(self.path / "spec" / name, text)
        write_text(self.path / "resolved.yaml", resolved)
        write_text(self.path / "tokenizer.json", tokenizer)
        write_json(self.path / "sources.json", sources)
        write_json(self.path / LOCK, lock.model_dump(mode="json"))
        write_json(self.path / "proofs.json", [proof.model_dump(mode="json") for proof in proofs])
        write_json(self.path / "plan.json", plan.dump())

    def proofs(self) -> tuple[Proof, ...]:
        """What was proven before step 0; nothing of a run that an older version made. Raises RunError where damaged."""
        if not (self.path / "proofs.json").exists():
            return ()
        try:
            return tuple(Proof.model_validate_json(json.dumps(found)) for found in read_json(self.path / "proofs.json"))
        except (TypeError, ValueError) as e:
            raise RunError(f"{self.path / 'proofs.json'} cannot be read: {str(e).splitlines()[0]}") from e

    @property
    def facts(self) -> dict[str, Any]:
        """facts.json: what was measured of the machine as the run ended; {} before."""
        return read_json(self.path / FACTS) if (self.path / FACTS).exists() else {}

    def note_facts(self, **values: Any) -> None:
        """Adds to facts.json."""
        write_json(self.path / FACTS, {**self.facts, **values})

    def sources(self) -> dict[str, Any]:
        """Licence and attribution of each source by name."""
        return read_json(self.path / "sources.json")

    def weights(self, plan: Plan) -> tuple[str, Checkpoint, list[str]]:
        """(phase, checkpoint, notices): the newest weights of the latest phase that has any."""
        for phase in reversed(plan.phases):
            folder = self.phase(phase.name)
            checkpoint, notices = folder.checkpoint()
            if checkpoint and folder.about.get("key") == phase.key:
                return phase.name, checkpoint, notices
        raise RunError(f"{self.path} has no weights yet", hint="llmspec run the spec to its first checkpoint")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Held while a run writes; a second process is refused."""
        self.path.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":
            yield
            return
        import fcntl

        with (self.path / ".lock").open("a+") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(f"another process is training in {self.path}",
                               hint="wait for it, or choose another folder with --out") from None
            f.seek(0)
            f.truncate()
            f.write(str(os.getpid()))
            f.flush()
            yield
