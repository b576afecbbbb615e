"""A process computes on one device: a model of another one is opened where the process computes already."""

from __future__ import annotations

from typing import Any

import models
import pytest

from llmspec.backends import guest
from llmspec.core.devices import NOWHERE
from llmspec.decoding.language_model import here
from llmspec.model import device as devices

KINDS = ("CPU", "CUDA", "METAL", "NV", "AMD")


@pytest.mark.parametrize("used", [*KINDS, "CUDA:1", NOWHERE, None])
@pytest.mark.parametrize("trained", KINDS)
def test_a_second_model_is_opened_where_the_first_one_is(
    used: str | None, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU's run whose export is read back where `device: auto` is a GPU, and the other way round."""
    opened: list[str] = []
    monkeypatch.setattr(guest, "chosen", lambda: used)
    monkeypatch.setattr(devices, "open_device", lambda name, beam=0: opened.append(name))
    plan: Any = models.plan().model_copy(update={"device": trained, "beam": 2})
    found, notices = here(plan)
    if used is None or used == NOWHERE or used.split(":")[0] == trained:
        assert (found, notices, opened) == (plan, [], [trained])
    else:
        assert (found.device, found.beam, opened) == (used, 0, [])
        assert notices == [f"trained on {trained}; it runs on {used}, where this process computes already"]


def test_the_device_of_a_process_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "_device", [])
    assert guest.chosen() is None
    devices.open_device("CPU")
    assert guest.chosen() == "CPU"
