"""The files of a model, one or several (`-00001-of-00003.gguf`), mapped into memory, as one table of tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from llmspec.core.disk import explained
from llmspec.core.problems import RunError
from llmspec.core.quantised import Quantised
from llmspec.core.weight_types import TYPES
from llmspec.formats.gguf.reading import Entry, Header, damaged, read_header

SUFFIX = ".gguf"
PART = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf")
"""The name of one of several files."""
NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"


class Files:
    """What stands in the files of a model, whose first one is named. Raises RunError for one that is missing, damaged
    or of another model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first = read_header(path)
        self.headers = [self.first, *map(read_header, self._others())]
        self._agree()

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Those of the first file; the others have none of the model."""
        return self.first.metadata

    @cached_property
    def tensors(self) -> dict[str, Entry]:
        """Every tensor by its name."""
        return {name: entry for header in self.headers for name, entry in header.tensors.items()}

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(header.size for header in self.headers)

    # -- several -------------------------------------------------------------------------------------------------------
    def _others(self) -> list[Path]:
        """The files behind the first. Raises RunError."""
        count, number = self.first.metadata.get(COUNT, 1), self.first.metadata.get(NUMBER, 0)
        if type(count) is not int or type(number) is not int or not 0 <= number < max(1, count):
            raise damaged(self.path, f"it says that it is file {number!r} of {count!r}")
        named = PART.fullmatch(self.path.name)
        if count <= 1:
            return []
        if number:
            first = f"{named['stem']}-00001-of-{count:05}{SUFFIX}" if named else "the one that ends in -00001-of-…"
            raise RunError(
                f"{self.path} is file {number + 1} of {count} of a model", hint=f"give the first one: {first}"
            )
        if named is None or int(named["count"]) != count or int(named["number"]) != 1:
            raise RunError(
                f"{self.path} is the first of {count} files of a model, and its name does not say where they are",
                hint=f"name them as they were: NAME-00001-of-{count:05}{SUFFIX}",
            )
        paths = [self.path.with_name(f"{named['stem']}-{i:05}-of-{count:05}{SUFFIX}") for i in range(2, count + 1)]
        if missing := [p.name for p in paths if not p.exists()]:
            raise RunError(
                f"{len(missing)} of the {count} files of {self.path} are missing: {', '.join(missing[:5])}",
                hint="download them into the same folder",
                consequence="layers would be without weights",
            )
        return paths

    def _agree(self) -> None:
        count = len(self.headers)
        seen = dict[str, Path]()
        for number, header in enumerate(self.headers):
            said = (header.metadata.get(NUMBER, 0), header.metadata.get(COUNT, 1) or 1)
            if said != (number, count):
                raise damaged(
                    header.path, f"it says that it is file {said[0]!r} of {said[1]!r}, not {number} of {count}"
                )
            for name in header.tensors:
                if name in seen:
                    raise RunError(f"{header.path} has the tensor {name[:80]!r}, as {seen[name]} has")
                seen[name] = header.path
        wanted = self.first.metadata.get(TENSORS)
        if wanted is not None and wanted != len(seen):
            raise damaged(self.path, f"it says that there are {wanted!r} tensors, and there are {len(seen):,}")

    # -- numbers -------------------------------------------------------------------------------------------------------
    def quantised(self, name: str) -> Quantised:
        """A tensor as it lies in its file, whose bytes it shares. Raises RunError where the file has changed."""
        import numpy as np

        header = next(h for h in self.headers if name in h.tensors)
        entry = header.tensors[name]
        self.unchanged(header)
        row = TYPES[entry.type].row(entry.shape[-1])
        data = np.frombuffer(header.buffer, np.uint8, entry.size, entry.start).reshape(-1, row)
        return Quantised(entry.type, entry.shape, data)

    def unchanged(self, header: Header) -> None:
        """Raises RunError where a file has another size than when it was opened: its last pages would be gone."""
        try:
            size = os.stat(header.path).st_size
        except OSError as error:
            raise RunError(explained(error, header.path)) from None
        if size != header.size:
            raise damaged(header.path, f"it had {header.size:,} bytes when it was opened, and has {size:,} now")
