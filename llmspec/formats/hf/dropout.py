"""What training drops, as config.json says it: shares by fields, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmspec.formats.hf.family import Family, Shared
from llmspec.parts.dropout import Dropout, Site


def dropouts(family: Family, common: Shared) -> dict[str, tuple[Site, ...]]:
    """Fields with shares that training drops -> our sites: a family's own, and those that all have."""
    return {**common.dropout, **family.dropout}


def shares_of(config: Mapping[str, Any], family: Family, common: Shared) -> tuple[dict[str, float], list[str]]:
    """The shares by site that a config itself names, none that is 0; and what is wrong with others."""
    shares, wrong = dict[str, float](), list[str]()
    for name, sites in dropouts(family, common).items():
        share = config.get(name)
        if share is None:
            continue
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            wrong.append(f"`{name}` is {str(share)[:80]}, and has to be a number from 0 up to less than 1")
        elif share:
            shares |= dict.fromkeys(sites, float(share))
    return shares, wrong


def fields_of(drops: Dropout, family: Family, common: Shared) -> dict[str, float]:
    """What a config says of shares: of each field whose sites agree, a family's own before the common ones."""
    own = {site for sites in family.dropout.values() for site in sites}
    found = {}
    for name, sites in dropouts(family, common).items():
        shares = {getattr(drops, site) for site in sites}
        if len(shares) == 1 and (name in family.dropout or not own & set(sites)):
            found[name] = shares.pop()
    return found
