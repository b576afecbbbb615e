"""Caches of tests that need one of their own: machine code in them is that of the cache that all tests share."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

CODE = ("libraries", "programs")
"""Folders whose files are written whole and never changed, so that two caches can have them in common."""


def copied(folder: Path) -> Path:
    """`folder` as a cache without data: it has the shared one's native library and captured steps, which take seconds
    to make, and what is known of this machine's compilers."""
    from llmspec.backends.cpu import early
    from llmspec.core.folders import cache_dir, private_folder

    early.load()  # the library is in the shared cache from here on
    shared = cache_dir()
    for name in CODE:
        private_folder(folder / name)
        for file in (shared / name).glob("[!.]*"):
            with suppress(FileNotFoundError):  # the other tests' oldest steps make room for new ones
                os.link(file, folder / name / file.name)
    for file in shared.glob("compilers.json"):
        shutil.copy2(file, folder)
    return folder
