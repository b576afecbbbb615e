"""What every test shares: tests/ on the path for its helper modules, and a quiet, repeatable hypothesis."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))

from llmspec.core.devices import cores

CALM = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("llmspec", max_examples=25, **CALM)
settings.register_profile("thorough", max_examples=1000, **CALM)
# LLMSPEC_HYPOTHESIS=thorough draws forty times as many examples, for a night or for a change of heart.
settings.load_profile(os.environ.get("LLMSPEC_HYPOTHESIS", "llmspec"))
os.environ.setdefault("NO_COLOR", "1")
# Commands that tests start find their modules compiled, as those of an installation do: 300 files take 0.3 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode"))

gc.disable()  # what is imported and collected stays: looking through it again and again takes a third of that time


def pytest_collection_finish() -> None:
    _settle()
    gc.enable()


def _settle() -> None:
    """What is there stays out of later collections: a run asks for several, and each would look through all the tests,
    their modules and the graphs that they keep."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`-n auto` is a worker a core, up to four, since each has threads of its own; and none beside a measurement."""
    return 0 if "benchmark" in config.option.markexpr.replace("not benchmark", "") else min(4, cores())


@pytest.fixture(scope="session", autouse=True)
def _workers_stay() -> Iterator[None]:
    """Processes that make kernels are started once, not for each of the many small graphs of tests."""
    from llmspec.backends import workers

    with workers.kept():
        yield


@pytest.fixture(scope="module", autouse=True)
def _settled() -> Iterator[None]:
    yield
    _settle()


@pytest.fixture(scope="session", autouse=True)
def _not_for_keeps() -> Iterator[None]:
    """Files of this process's tests need not last through a power cut, for which a disk takes milliseconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which minds a handle that is none just as well
        yield
