"""What phases have in common that learn from answers that the model draws itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator, model_validator

from llmspec.core.problems import Path, Problem, one_of
from llmspec.core.table import choice
from llmspec.core.units import Budget
from llmspec.parts.others import Other, StartModel
from llmspec.parts.phases.base import POLICY, Phase
from llmspec.parts.phases.course import StoppingByReward
from llmspec.parts.rewards import TABLE as REWARDS
from llmspec.parts.rewards import Reward

REFERENCE = "reference"
FAR = 3.0
"""Nats per token from which on text is no longer what its reference would say."""


class RolloutPhase(Phase):
    """Draws answers to prompts from the weights as they are, gives each a reward, and learns from them.

    A rollout is `prompts_per_rollout` prompts with `answers_per_prompt` answers each, and serves `epochs_per_rollout` ·
    `mini_batches` optimizer steps. Answers are packed into rows as tightly as their lengths allow, and passes that stay
    empty are left out: `gradient_accumulation_steps` is how many there may be."""

    revision: ClassVar[int] = 2
    dialogues: ClassVar[bool] = True
    prompted: ClassVar[bool] = True
    judged_by: ClassVar[str] = "reward"
    takes: ClassVar[tuple[str, ...]] = (POLICY,)
    train_on: ClassVar[tuple[str, ...]] = ("assistant", "last_turn")
    in_float64: ClassVar[tuple[str, ...]] = (
        *Phase.in_float64,
        "reward_scale",
        "reward_clip",
        "missing_end_penalty",
        "kl_ceiling",
    )
    effects: ClassVar[dict[str, tuple[str, str]]] = {
        **Phase.effects,
        "temperature": ("logits would be infinite", "every token would be as likely as any other"),
        "kl_coefficient": ("nothing would hold the model near its reference", "the reward would have no weight"),
    }
    reward: Annotated[Reward, choice(REWARDS)] | str
    """What an answer is worth; the name of a phase of kind `reward` stands for its model."""
    prompts_per_rollout: int = Field(16, gt=0, le=1 << 20)
    """Prompts that are answered before the next steps."""
    answers_per_prompt: int = Field(8, gt=0, le=1 << 16)
    """Answers that are drawn to each."""
    max_tokens: int = Field(64, gt=0, le=1 << 20)
    """Tokens of an answer, at most. Prompts that leave no room for as many are left out, and counted."""
    temperature: float = Field(1.0, gt=0, le=100)
    """Divides the logits where answers are drawn, and where their log-probabilities are taken."""
    epochs_per_rollout: int = Field(1, gt=0, le=1 << 16)
    """How often a rollout is learned from."""
    mini_batches: int = Field(1, gt=0, le=1 << 20)
    """Optimizer steps of such an epoch, each of as many answers."""
    reward_scale: float = Field(1.0, gt=0)
    """What rewards are multiplied with."""
    reward_clip: float | None = Field(None, gt=0)
    """Bound, in either direction, of a reward once it is scaled; null for none."""
    missing_end_penalty: float | None = Field(None, ge=0)
    """What is taken from the reward of an answer that was cut, once it is scaled and bounded; null for nothing."""
    reference: str | StartModel | None = None
    """The model whose distribution the trained one is held near to: a phase or `{model: FOLDER}`; the model that the
    phase starts from if omitted."""
    kl_coefficient: float = Field(0.0, ge=0)
    """Weight of the divergence from the reference. 0: no reference is needed, unless a key asks for it."""
    kl_ceiling: float | None = Field(None, gt=0)
    """Divergence from the reference, in nats per token of a rollout's answers, above which the phase stops with its
    weights saved; null for none."""
    early_stopping: StoppingByReward | None = None
    """Whether the phase ends once validation has stopped to improve; it never does if omitted."""
    validation_prompts: int = Field(64, ge=0, le=1 << 20)
    """Held-out prompts of each source that a validation answers, at most; each by its most probable tokens."""
    document_mask: bool = True
    """Has to be true: several answers stand in a row, and none sees another."""

    @field_validator("reward", mode="before")
    @classmethod
    def _named(cls, reward: Any) -> Any:
        if not isinstance(reward, str):
            return reward
        if reward not in REWARDS and "reward_model" not in REWARDS:
            raise ValueError(f"no reward is called `{reward}`; {one_of(reward, REWARDS)}")
        return {"kind": reward} if reward in REWARDS else {"kind": "reward_model", "model": reward}

    @field_validator("budget")
    @classmethod
    def _counted(cls, budget: Budget) -> Budget:
        if budget.unit not in ("steps", "minutes", "epochs"):
            raise ValueError(
                f"{budget.unit} do not say how long answers are drawn: write `budget: 200 steps` (optimizer steps), "
                "minutes, or `2 epochs of SOURCE`, each of whose prompts is then answered twice over"
            )
        return budget

    @model_validator(mode="after")
    def _whole_batches(self) -> RolloutPhase:
        if self.learned % self.mini_batches:
            raise ValueError(
                f"{self.learned:,} answers of a rollout cannot be divided into {self.mini_batches:,} `mini_batches` of "
                "one size"
            )
        if not self.document_mask:
            raise ValueError("`document_mask: false`: several answers stand in a row, and none may see another")
        return self

    @property
    def judge(self) -> Reward:
        """What gives rewards."""
        assert isinstance(self.reward, Reward), "a name has become a part"
        return self.reward

    @property
    def answers(self) -> int:
        """Answers of a rollout."""
        return self.prompts_per_rollout * self.answers_per_prompt

    @property
    def learned(self) -> int:
        """Those of them that its steps learn from."""
        return self.answers

    def measured(self) -> dict[str, str]:
        return {"reward": "higher", "ended": "higher"}

    @property
    def steps_per_rollout(self) -> int:
        """Optimizer steps that learn from one rollout."""
        return self.epochs_per_rollout * self.mini_batches

    @property
    def refers(self) -> bool:
        """Whether a reference has a part in it."""
        return self.kl_coefficient > 0 or self.kl_ceiling is not None or self.reference is not None

    @property
    def bare_reference(self) -> bool:
        """Whether the reference is the model without the adapter that the phase adds, so that it is there already."""
        return self.refers and self.reference is None and self.adapter is not None

    def others(self) -> tuple[Other, ...]:
        asked = enumerate(self.judge.phases())
        judges = (
            Other(f"reward {i + 1}" if i else "reward", ("reward", *path), name, takes, True, True)
            for i, (path, name, takes) in asked
        )
        found = (*super().others(), *judges)
        first = self.reference if self.reference is not None else self.from_
        if not self.refers or self.bare_reference or first is None:
            return found
        return (*found, Other(REFERENCE, (REFERENCE,), first, (POLICY,)))

    def models(self) -> tuple[tuple[Path, StartModel], ...]:
        return (*super().models(), *((("reward", *path), model) for path, model, _ in self.judge.models()))

    @property
    def answered(self) -> int:
        return self.validation_prompts

    def by_rollouts(self, steps: int | None) -> RolloutPhase:
        rollouts = None if steps is None else Budget(float(-(-steps // self.steps_per_rollout)), "steps")
        return self.model_copy(
            update={
                "budget": rollouts or self.budget,
                "micro_batch_size": self.prompts_per_rollout,
                "gradient_accumulation_steps": 1,
                "batch_size_warmup": type(self.batch_size_warmup)(0.0),
            }
        )

    def together(self) -> Iterator[Problem]:
        yield from super().together()
        yield from (problem.at("reward") for problem in self.judge.lone())
        if self.from_ is None:
            yield Problem(
                f"a phase of kind {self.kind} starts from a model that answers already, and this one names none",
                ("kind",),
                "`from: PHASE`, one of kind sft, or `from: {model: FOLDER}`",
                "answers of random weights would have nothing to learn from",
            )
        if self.ema is not None or self.optimizer.averages:
            yield Problem(
                "answers are to be drawn from the weights that steps train, and an average of them would draw them",
                ("ema",) if self.ema is not None else ("optimizer", "kind"),
                "leave it out" if self.ema is not None else "adamw, or another optimizer that keeps no average",
                "what is learned from would have been drawn by another model than the one that learns",
            )
        if self.batch_size_warmup.percent:
            yield Problem(
                "the answers of a rollout are divided into steps of one size",
                ("batch_size_warmup",),
                "leave it out",
                "some answers would be learned from more than others",
            )
