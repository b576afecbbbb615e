"""Learning from the best of several answers: rejection sampling (Touvron et al. 2023, arXiv:2307.09288, section 3.2.3;
Dong et al. 2023, arXiv:2304.06767)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from llmspec.parts.phases.rollouts import RolloutPhase


class BestOfN(RolloutPhase):
    """Draws `answers_per_prompt` answers to each prompt, keeps the one with the highest reward, and learns it as SFT
    learns a written one."""

    kind: Literal["best_of_n"] = "best_of_n"
    in_float64: ClassVar[tuple[str, ...]] = (*RolloutPhase.in_float64, "threshold")
    threshold: float | None = None
    """Reward that the best answer has to reach to be learned; null: it always is. Prompts none of whose answers does
    teach nothing in their rollout."""

    @model_validator(mode="after")
    def _of_several(self) -> BestOfN:
        if self.answers_per_prompt < 2:
            raise ValueError("the best is one of several: `answers_per_prompt:` is 2 or more")
        if self.refers:
            raise ValueError(
                "a phase of kind best_of_n learns as SFT does, without a reference: leave out `reference:`, "
                "`kl_coefficient:` and `kl_ceiling:`"
            )
        return self

    @property
    def learned(self) -> int:
        return self.prompts_per_rollout
