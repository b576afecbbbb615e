"""Supervised fine-tuning on dialogues (Ouyang et al. 2022, section 3.5, step 1)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from llmspec.parts.phases.base import Phase
from llmspec.parts.phases.turns import Taught


class SFT(Phase):
    """Predicts the turns of the roles in `train_on`, given the dialogue before them; of plain text, all is."""

    kind: Literal["sft"] = "sft"
    dialogues: ClassVar[bool] = True
    in_float64: ClassVar[tuple[str, ...]] = (*Phase.in_float64, "neftune_noise_alpha")
    train_on: Taught | Annotated[tuple[Taught, ...], Field(min_length=1)] = ("assistant",)
    """Roles whose turns, and the ends of whose turns, are supervised; with `last_turn` among them, of each dialogue the
    last of these turns alone. `last_turn` for itself is the assistant's last one."""
    loss_reduction: Literal["token", "sample"] = "token"
    """What counts the same in a step's mean: each token that is learned, or each dialogue, whatever its length; of
    plain text, each document's part of a row. Validation is always the mean over tokens."""
    neftune_noise_alpha: float | None = Field(None, gt=0, le=1000)
    """Noise on the embeddings in training (NEFTune; Jain et al. 2023): even between −m and m, m = alpha / √(tokens of a
    row · d_model). 5 to 15 are usual; none if omitted."""
    document_mask: bool = True
    """Whether tokens see only their own dialogue; positions then restart with each dialogue."""

    @field_validator("train_on")
    @classmethod
    def _listed(cls, train_on: str | tuple[str, ...]) -> tuple[str, ...]:
        return (train_on,) if isinstance(train_on, str) else train_on

    @property
    def embedding_noise(self) -> float | None:
        return self.neftune_noise_alpha

    @model_validator(mode="after")
    def _samples_apart(self) -> "SFT":
        if self.loss_reduction == "sample" and not self.document_mask:
            raise ValueError(
                "`loss_reduction: sample` needs to know which tokens are one sample's: leave `document_mask: true`"
            )
        return self
