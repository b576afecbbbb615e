"""Which turns of dialogues a phase learns: all of some roles, or of each dialogue the last of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from llmspec.parts.tokenizers.special_tokens import ROLES

Taught = Literal["system", "developer", "user", "assistant", "last_turn"]
"""A role, or what stands among them for the last turn alone."""
LAST_TURN: Taught = "last_turn"


class Turns(NamedTuple):
    """What `train_on` says."""

    roles: tuple[str, ...]
    last: bool
    """Whether of each dialogue the last turn of these roles counts, and no other."""

    @classmethod
    def of(cls, train_on: Sequence[str]) -> Turns:
        """Roles, and perhaps `last_turn`, which alone is the last turn of the assistant."""
        roles = tuple(role for role in train_on if role != LAST_TURN)
        last = LAST_TURN in train_on
        return cls(roles or (("assistant",) if last else ()), last)

    @property
    def learned(self) -> list[int]:
        """Numbers of the roles, in the order of ROLES."""
        return [ROLES.index(role) for role in ROLES if role in self.roles]

    @property
    def words(self) -> str:
        """What of a dialogue is learned."""
        roles = ", ".join(self.roles)
        if self.last:
            return f"of each dialogue the last turn of {roles.replace(', ', ' or ')}, and where it ends"
        return f"turns of {roles}, and where they end"
