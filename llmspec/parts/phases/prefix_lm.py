"""Prefix language modelling (Liu et al. 2018, arXiv:1801.10198, section 4.2.4; Raffel et al. 2020, section 3.2.3)."""

from __future__ import annotations

from typing import ClassVar, Literal

from llmspec.parts.phases.base import Phase


class PrefixLM(Phase):
    """Predicts plain text behind a cut, which is drawn for each row from the seed: what stands before it is read alone,
    under `mask: {kind: prefix}` in both directions, or by the encoder. Cuts of validation are always the same."""

    kind: Literal["prefix_lm"] = "prefix_lm"
    cuts: ClassVar[str] = "prefix"
