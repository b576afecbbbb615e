"""Weights in safetensors files of others, one or many, mapped into memory: nothing of a header is believed."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llmspec.core.disk import explained, reading
from llmspec.core.mapped import check_whole, mapped
from llmspec.core.problems import Problem, RunError
from llmspec.core.quantised import Quantised
from llmspec.formats.hf.family import Family
from llmspec.formats.hf.names import Group, left_over
from llmspec.runs import tensors
from llmspec.runs.files import read_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = ("F32", "F16", "BF16", "F64")
HALVES = {"F16": "f16", "BF16": "bf16"}
"""Types of numbers of 16 bits, and what `core.weight_types` calls them."""
MOST_SHARDS = 10_000


class Files:
    """The arrays of a folder by their names in it. Use as a context: files are open within."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, tuple[str, tensors.Entry]] = {}
        """Name -> (file, what its header says)."""
        self._maps: dict[str, mmap.mmap] = {}
        for name in self._shards():
            self._open(name)
        self.agree()

    def _shards(self) -> list[str]:
        """The names of the files. Raises RunError."""
        self._index: dict[str, str] = {}
        if not (self.folder / INDEX).exists():
            if (self.folder / WHOLE).exists():
                return [WHOLE]
            raise RunError(no_weights(self.folder))
        found = read_json(self.folder / INDEX)
        names = found.get("weight_map") if isinstance(found, dict) else None
        if not isinstance(names, dict) or not names or not all(isinstance(v, str) for v in names.values()):
            raise RunError(f"{self.folder / INDEX} is damaged: it has no `weight_map` of names and files")
        self._index, shards = names, sorted(set(names.values()))
        if outside := [s for s in shards if not inside(s) or not s.endswith(".safetensors")]:
            raise RunError(
                f"{self.folder / INDEX} names {outside[0][:120]!r}, which is no safetensors file of the folder",
                consequence="a file elsewhere would be read",
            )
        missing = [s for s in shards if not (self.folder / s).exists()]
        if missing or len(shards) > MOST_SHARDS:
            raise RunError(
                f"{len(missing)} of {len(shards)} files of weights are missing: {', '.join(missing[:5])}",
                hint="download the folder again, whole",
                consequence="layers would be without weights",
            )
        return shards

    def _open(self, name: str) -> None:
        path = self.folder / name
        try:
            with reading(path) as f:
                found = tensors.table(f)
                self._maps[name] = mapped(f, path, mmap.ACCESS_COPY)
        except OSError as error:
            hint = "a folder of links becomes one of files by `cp -rL`" if path.is_symlink() else ""
            raise RunError(explained(error, path, hint)) from None
        except tensors.WrongTensors as error:
            raise RunError(f"{path} cannot be read: {error}", hint="download it again, whole") from None
        for tensor, entry in found.items():
            if tensor in self.entries:
                raise RunError(f"{path} has {tensor[:80]}, as {self.entries[tensor][0]} has", hint="keep one of them")
            self.entries[tensor] = name, entry

    def agree(self) -> None:
        """Raises RunError where the index names other tensors, or other files for them, than there are."""
        wrong = [n for n, shard in self._index.items() if n not in self.entries or self.entries[n][0] != shard]
        if wrong:
            raise RunError(
                f"{self.folder / INDEX} says that {wrong[0][:80]} is in {self._index[wrong[0]][:80]}, and it is not",
                hint="download the folder again, whole",
            )

    def rename(self, endings: Mapping[str, str]) -> None:
        """Names of old files become those of today."""
        for old, new in endings.items():
            for name in [n for n in self.entries if n.endswith(old)]:
                self.entries.setdefault(name.removesuffix(old) + new, self.entries.pop(name))

    def array(self, name: str) -> Any:
        """An array as it lies in the file: float32 and others as they are, bfloat16 as its bits. Raises RunError where
        the file was cut since it was opened."""
        import numpy as np

        file, entry = self.entries[name]
        check_whole(self._maps[file])
        kinds = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
        count = 1
        for n in entry.shape:
            count *= n
        if not count:
            return np.empty(entry.shape, np.float32)
        return np.frombuffer(self._maps[file], kinds[entry.dtype], count, entry.start).reshape(entry.shape)

    def float32(self, name: str) -> Any:
        """An array as float32: a view of the file where it is that, else converted."""
        import numpy as np

        found, dtype = self.array(name), self.entries[name][1].dtype
        if dtype == "BF16" and found.dtype != np.float32:
            return (found.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(found, np.float32)

    def lying(self, name: str) -> Quantised:
        """A matrix of a type of HALVES as it lies in the file, of which it is a view."""
        import numpy as np

        found, dtype = self.array(name), self.entries[name][1].dtype
        rows = found.reshape(-1, found.shape[-1]).view(np.uint8)
        return Quantised(HALVES[dtype], found.shape, rows)

    def dtypes(self, names: Iterator[str] | list[str]) -> set[str]:
        return {self.entries[n][1].dtype for n in names if n in self.entries}


def no_weights(folder: Path) -> Problem:
    """What is said of a folder without safetensors: pickles are named, and how they are converted."""
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if not pickles:
        return Problem(f"{folder} has no {WHOLE}", hint="give the folder with the weights")
    code = "from transformers import AutoModelForCausalLM as M; M.from_pretrained('IN').save_pretrained('OUT')"
    return Problem(
        f"{folder} has weights as {pickles[0]}, a pickle, and no {WHOLE}",
        hint=f'convert it where you trust its author: python -c "{code}"',
        consequence="reading a pickle runs whatever code is in it, which llmspec never does",
    )


def inside(name: str) -> bool:
    """Whether a name is that of a file in the folder itself."""
    return bool(name) and name.isprintable() and not set(name) & set("/\\:") and not name.startswith(".")


def check(
    files: Files, groups: list[Group], family: Family, tied: Mapping[str, str], unused: Sequence[str] = ()
) -> list[str]:
    """Notices on a file's tensors. `tied`: names that may stand there too -> whose numbers they then have; `unused`:
    patterns of names that belong to other heads.

    Raises RunError with every tensor that is missing, left over, of another shape, or no plain floats.
    """
    expected = {name: shape for group in groups for name, shape in group.theirs}
    problems: list[Problem] = []

    def wrong(what: str, names: list[str], hint: str = "") -> None:
        if names:
            some = ", ".join(n[:80] for n in names[:5]) + (" …" if len(names) > 5 else "")
            problems.append(Problem(f"{files.folder}: {len(names)} {what}: {some}", hint=hint))

    rest, idle = left_over(family, files.entries, expected)
    others = [n for n in rest if any(fnmatchcase(n, pattern) for pattern in unused)]
    rest = [n for n in rest if n not in others]
    doubled = [n for n in rest if n in tied]
    wrong("tensors are missing that config.json asks for", [n for n in expected if n not in files.entries])
    wrong("tensors have no place in the model of config.json", [n for n in rest if n not in tied])
    here = {n: files.entries[n][1] for n in (*expected, *doubled) if n in files.entries}
    for name, entry in here.items():
        wanted = expected.get(tied.get(name, name), ())
        if entry.shape != tuple(wanted):
            problems.append(
                Problem(
                    f"{files.folder}: {name} is {list(entry.shape)}, and config.json makes it {list(wanted)}",
                    consequence="its numbers would be misread",
                )
            )
    wrong("tensors are no floats", [n for n, e in here.items() if e.dtype not in FLOATS])
    if problems:
        raise RunError(problems)
    for name in doubled:
        if files.array(name).tobytes() != files.array(tied[name]).tobytes():
            raise RunError(
                f"{files.folder}: config.json says that {name} is {tied[name]}, and its numbers are others",
                hint="`tie_word_embeddings: false` if it is a matrix of its own",
                consequence="one of both would be ignored",
            )
    notices = [f"without weights, and left out: {', '.join(idle[:5])}{' …' if len(idle) > 5 else ''}"] if idle else []
    if others:
        notices.append(f"of other heads, and left out: {', '.join(others[:5])}{' …' if len(others) > 5 else ''}")
    kinds = files.dtypes(list(expected)) - {"F32"}
    if kinds:
        notices.append(f"weights are {' and '.join(sorted(kinds))} in the file, and computed with as float32")
    return notices


def load(
    files: Files,
    groups: list[Group],
    readable: frozenset[str] = frozenset(),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Our tensors, float32: views of the file where it holds them as they are. Matrices of 16 bits that linear layers
    and look-ups alone read, the `readable` ones, are Quantised. Raises RunError for NaN and infinity."""
    found: dict[str, Any] = {}
    for done, group in enumerate(groups):
        progress(done, len(groups))
        stays = group.by_rows and all(n in readable for n, _ in group.ours)
        stays = stays and all(files.entries[name][1].dtype in HALVES for name, _ in group.theirs)
        theirs = [files.lying(name) if stays else files.float32(name) for name, _ in group.theirs]
        for (name, _), array in zip(group.theirs, theirs, strict=True):
            if not _finite(array):
                raise RunError(
                    f"{files.folder}: {name} has numbers that are NaN or infinite",
                    hint="download it again; if it was trained so, it is broken",
                    consequence="everything computed would be NaN",
                )
        found.update(zip((n for n, _ in group.ours), group.split(theirs), strict=True))
    return found


def _finite(array: Any) -> bool:
    import numpy as np

    if isinstance(array, Quantised):
        found = array.finite()
        array.let_go()
        return found
    return not array.size or bool(np.isfinite(array.min()) and np.isfinite(array.max()))
