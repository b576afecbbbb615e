"""A wheel of the package index as a spec names it: its name, one exact version, its hash, and files inside it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

SHA256 = r"^[0-9a-fA-F]{64}$"
"""A hash of 64 hexadecimal digits."""
_NAME = re.compile(r"[A-Z0-9]|[A-Z0-9][A-Z0-9._-]*[A-Z0-9]", re.IGNORECASE)
# The public versions of PEP 440, as people write them; no operators, no wildcards, no lists.
_VERSION = re.compile(
    r"(\d+!)?\d+(\.\d+)*((a|b|c|rc|alpha|beta|pre|preview)\d*)?(\.?post\d*)?(\.?dev\d*)?(\+[a-z0-9.]+)?", re.IGNORECASE
)


def package_name(name: str) -> str:
    """The name, as it is. Raises ValueError where it can be none."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"`{name}` is not a package name; letters, digits, `.`, `-` and `_` make one")
    return name


def exact_version(version: str, changed: str) -> str:
    """The version, as it is. Raises ValueError where it is no single one; `changed` is what others would change."""
    if not _VERSION.fullmatch(version):
        raise ValueError(f"`{version}` is not one exact version, such as 3.0.0; ranges could change {changed}")
    return version


def inside(pattern: str, example: str) -> str:
    """A pattern of files in a wheel, as it is. Raises ValueError where it leaves the wheel, or names nothing."""
    if not pattern.strip() or "\0" in pattern:
        raise ValueError(f"{pattern!r} names no file; write a pattern, such as `{example}`")
    if pattern.startswith(("/", "~")) or "\\" in pattern or ".." in PurePosixPath(pattern).parts:
        raise ValueError(f"`{pattern}` leaves the wheel; patterns start inside it")
    return pattern
