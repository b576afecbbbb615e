"""Supervised fine-tuning on dialogues (Ouyang et al. 2022, section 3.5, step 1)."""

from typing import ClassVar, Literal

from pydantic import Field

from llmspec.parts.phases.base import Phase
from llmspec.parts.tokenizers.special_tokens import ChatRole


class SFT(Phase):
    """Predicts the turns of the roles in `train_on`, given the dialogue before them; of plain text, all is."""

    kind: Literal["sft"] = "sft"
    dialogues: ClassVar[bool] = True
    train_on: tuple[ChatRole, ...] = Field(("assistant",), min_length=1)
    """Roles whose turns, and the ends of whose turns, are supervised."""
    document_mask: bool = True
    """Whether tokens see only their own dialogue; positions then restart with each dialogue."""
