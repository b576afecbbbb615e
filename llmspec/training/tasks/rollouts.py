"""What tasks have in common that draw answers, give them rewards, and learn from them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from llmspec.compiler.plan import PhasePlan
from llmspec.core.metrics import Metric
from llmspec.core.problems import RunError
from llmspec.data.inputs import Arrays, BatchInputs
from llmspec.data.layout import shuffled
from llmspec.data.prompts import PromptLayout
from llmspec.decoding.sampler import NotFinite
from llmspec.forecast.rollouts import DRAWING, LOG_PROBABILITIES, SCORING, UPDATE
from llmspec.model.others import Weights
from llmspec.parts.objectives.base import Objective
from llmspec.parts.objectives.policy import LOGPS, REFERENCE_LOGPS
from llmspec.parts.phases.rollouts import RolloutPhase
from llmspec.spec.decoding import Decoding
from llmspec.training.advantages import answer_scores
from llmspec.training.context import RunContext
from llmspec.training.judging import made_beside, opener
from llmspec.training.lesson import numbers, taken_at
from llmspec.training.prompts import spoken
from llmspec.training.reference import without_adapter
from llmspec.training.rollout_signs import Signs, divergence, told
from llmspec.training.rollouts import (
    Episodes,
    Packed,
    Prompt,
    Refused,
    draw,
    episodes,
    packed,
    scored,
)
from llmspec.training.tasks.base import Shapes, Validation, evenly
from llmspec.training.tasks.supervised import Supervised
from llmspec.training.trainer import StepTaken, Trainer


class Rollouts(Supervised):
    """Answers drawn from the weights as they are, which serve some steps. A subclass says what each token was worth
    (`advantages`) and how much it counts (`weights`)."""

    phase: RolloutPhase

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        self.made: Episodes | None = None
        """The answers that steps learn from now."""
        self.rollout, self.seconds = -1, dict[str, float]()
        self.signs = Signs(phase.name, context.watcher.notice)
        self.lesson = dict[str, Any]()
        """What updates did to one token, once the phase has gone half its way."""
        self.decoding = Decoding().updated(max_tokens=self.phase.max_tokens, temperature=self.phase.temperature)
        self.open = opener(base=context.plan.base)
        self._records = dict[tuple[str, str], list[Mapping[str, Any]]]()
        self._taken: tuple[np.ndarray, Packed] | None = None
        self._end = context.prepared.codec.specials.need("eos")

    def begin(self, trainer: Trainer, others: Weights) -> bool:
        """Has the reward models at hand that stand beside."""
        self.open = opener(made_beside(self.context, self.plan, others), self.context.plan.base)
        return super().begin(trainer, others)

    # -- what subclasses say -------------------------------------------------------------------------------------
    def advantages(self, made: Episodes) -> np.ndarray:
        """(E, M): how much better each token was than what was to be expected."""
        raise NotImplementedError

    def counted(self, made: Episodes) -> np.ndarray:
        """(E,) bool: the answers that count."""
        return np.ones(len(made.lengths), bool)

    def chosen(self, made: Episodes) -> np.ndarray:
        """(n,) the answers that steps learn from, as many in every rollout."""
        return np.arange(len(made.lengths))

    def weights(self, made: Episodes, which: np.ndarray) -> np.ndarray:
        """(n,): how much each token counts of the answers `which` of a step, in the sum that is its loss: as a mean
        over their tokens, unless it is said otherwise."""
        lengths = made.lengths[which] * self.counted(made)[which]
        return np.full(len(which), 1 / max(1, int(lengths.sum())), np.float64)

    def measures(self, made: Episodes) -> Mapping[str, np.ndarray]:
        """(E, M) each: what else the objective reads of each token, by the names of its inputs."""
        return {}

    def scores(self, made: Episodes) -> np.ndarray:
        """(E,) float64: rewards, scaled, bounded, and less what an answer loses that was cut."""
        p = self.phase
        return answer_scores(made.rewards, made.ended, p.reward_scale, p.reward_clip, p.missing_end_penalty)

    # -- prompts -------------------------------------------------------------------------------------------------
    def prompt(self, layout: PromptLayout, source: str, side: str, block: int) -> Prompt:
        """The prompt of a block, as rewards see it."""
        codec, asked = self.context.prepared.codec, layout.asked(block)
        if (source, side) not in self._records:
            self._records[source, side] = self.context.prepared.records(self.plan.name, source, side)
        said, right = tuple(spoken(codec, asked.ids, asked.codes)), codec.decode(asked.answer)
        record = {**({"answer": right} if right else {}), **self._records[source, side][asked.document]}
        return Prompt(asked.ids, said[-1][1] if said else "", record, source, said)

    def asked(self, rollout: int) -> list[Prompt]:
        """The prompts of a rollout."""
        found = []
        for source, block in self.stream.blocks(rollout):
            layout = self.stream.layout(source)
            assert isinstance(layout, PromptLayout)
            found.append(self.prompt(layout, source, "train", block))
        return found

    # -- a rollout -----------------------------------------------------------------------------------------------
    @contextmanager
    def spending(self, on: str) -> Iterator[None]:
        """Counts the seconds of what stands inside."""
        began = time.perf_counter()
        yield
        self.seconds[on] = self.seconds.get(on, 0.0) + time.perf_counter() - began

    def roll(self, trainer: Trainer, rollout: int) -> Episodes:
        """Answers to the prompts of a rollout, with rewards and log-probabilities. Raises Refused."""
        plan, phase, codec = self.context.plan, self.phase, self.context.prepared.codec
        prompts, seed = self.asked(rollout), (plan.seed, self.plan.name, rollout)
        with self.spending(DRAWING):
            decoder = self.decoder(trainer)
            drawn = list(draw(decoder, codec, prompts, self.decoding, phase.answers_per_prompt, seed))
        made = episodes(prompts, drawn, phase.max_tokens)
        with self.spending(SCORING):
            parts, whole = scored(phase.judge, map(made.prompt, range(len(drawn))), drawn, self.open)
        made = made._replace(
            parts={name: np.array(found, np.float32) for name, found in parts.items()},
            rewards=np.array(whole, np.float32),
        )
        with self.spending(LOG_PROBABILITIES):
            made = made._replace(by_token=self.looked_at(trainer, made))
        self._hold_near(made, rollout)
        self.signs.spread(made.rewards, self.scores(made), rollout)
        return made

    def looked_at(self, trainer: Trainer, made: Episodes) -> dict[str, np.ndarray]:
        """(E, M) each: what a pass over all answers gathers of their tokens."""
        if not self.phase.objective.gathered:
            return {}
        every = np.arange(len(made.lengths))
        found = packed(made, every, self._shape, self._end)
        nothing = np.zeros(made.tokens.shape, np.float32)
        arrays = self._arrays_of(made, every, found, dict.fromkeys(by_token(self.phase.objective), nothing))
        seen = [trainer.evaluate(one) for one in arrays]
        most, names = made.tokens.shape[1], self.phase.objective.gathered
        got = {name: found.gathered([one[name] for one in seen], made.lengths, most) for name in names}
        if self.phase.bare_reference:
            bare = [trainer.evaluate(one, without_adapter(trainer)) for one in arrays]
            got[REFERENCE_LOGPS] = found.gathered([one[LOGPS] for one in bare], made.lengths, most)
        return got

    def _hold_near(self, made: Episodes, rollout: int) -> None:
        """Raises Refused where the policy is too far from its reference."""
        if self.phase.refers:
            self.signs.nearness(self.kl(made), self.phase.kl_ceiling, rollout)

    def kl(self, made: Episodes) -> float:
        """Of the policy from its reference, in nats per token of a rollout, as it was drawn."""
        return divergence(made.by_token[LOGPS], made.by_token[REFERENCE_LOGPS], made.drawn)

    def _end_near(self, trainer: Trainer) -> None:
        """Looks, after the last step, at where its updates have left the policy, if a ceiling holds it."""
        made, most = self.made, self.phase.kl_ceiling
        if made is None or most is None:
            return
        with self.spending(LOG_PROBABILITIES):
            now = self.looked_at(trainer, made)
        self.signs.end(divergence(now[LOGPS], now[REFERENCE_LOGPS], made.drawn, made.by_token[LOGPS]), most)

    # -- steps ---------------------------------------------------------------------------------------------------
    @property
    def _shape(self) -> tuple[int, int]:
        return self.phase.micro_batch_size, self.plan.model.context

    @property
    def gathered(self) -> tuple[str, ...]:
        """Names of what passes over the answers of a rollout give of each token."""
        return self.phase.objective.gathered

    def train(self, trainer: Trainer, step: int, scalars: Sequence[float]) -> StepTaken:
        rollout = step // self.phase.steps_per_rollout
        if rollout != self.rollout:
            self._learn(trainer, step)
            self.made, self.rollout = self.roll(trainer, rollout), rollout
        with self.spending(UPDATE):
            taken = trainer.step(self.batches(step), scalars, step)
        if step + 1 == self.plan.steps:
            self._end_near(trainer)
        return taken

    def _learn(self, trainer: Trainer, step: int) -> None:
        """Keeps what the updates on a rollout did to one of its tokens, before the next one takes its place."""
        made = self.made
        if made is None or self.rollout != taken_at(self.plan.steps or 0, self.phase.steps_per_rollout):
            return
        if hasattr(self.phase.objective, "ratio_bounds"):
            with self.spending(LOG_PROBABILITIES):
                now = self.looked_at(trainer, made)[LOGPS]
            self.lesson = numbers(self, lambda one: now[one, : int(made.lengths[one])], step)

    def which(self, step: int) -> np.ndarray:
        """(n,) the answers that a step learns from: each epoch of a rollout in an order of its own."""
        rollout, nth = divmod(step, self.phase.steps_per_rollout)
        epoch, part = divmod(nth, self.phase.mini_batches)
        assert self.made is not None, "its answers are drawn"
        order = shuffled(self.phase.learned, self.context.plan.seed, self.plan.name, "answers", rollout, epoch)
        size = self.phase.learned // self.phase.mini_batches
        chosen: np.ndarray = self.chosen(self.made)[order[part * size : (part + 1) * size]]
        return chosen

    def batches(self, step: int) -> list[Arrays]:
        made = self.made
        if made is None or step // self.phase.steps_per_rollout != self.rollout:
            return []  # its answers are not drawn yet
        which = self.which(step)
        found = packed(made, which, self._shape, self._end)
        values = {
            **{f"old_{LOGPS}": made.by_token[name] for name in (LOGPS,) if name in made.by_token},
            **{name: made.by_token[name] for name in (REFERENCE_LOGPS,) if name in made.by_token},
            "advantages": self.advantages(made),
            **self.measures(made),
        }
        self._taken = which, found
        arrays = self._arrays_of(made, which, found, values, self.weights(made, which))
        self._read = list(found.batches)
        return arrays

    def _arrays_of(
        self,
        made: Episodes,
        which: np.ndarray,
        found: Packed,
        values: Mapping[str, np.ndarray],
        weights: np.ndarray | None = None,
        reader: tuple[Objective, BatchInputs] | None = None,
    ) -> list[Arrays]:
        """What graphs read of packed answers; `weights` (n,) of their tokens, of which a step's loss is the sum. Those
        of the phase's own model, unless another `reader` is given."""
        (objective, inputs), lengths = reader or (self.phase.objective, self._arrays), made.lengths[which]
        counts = self.counted(made)[which] if weights is not None else np.ones(len(which), bool)
        ones = np.ones((len(which), made.tokens.shape[1])) * counts[:, None]
        each = np.ones(len(which)) if weights is None else weights
        weighed = ones * each[:, None]
        scalars = {
            "inverse_temperature": 1 / self.phase.temperature,
            "loss_scale": float((weighed * (np.arange(ones.shape[1]) < lengths[:, None])).sum()),
            "kl_coefficient": self.kl_coefficient,
        }
        each_token = {
            name: values[name][which] if name in values else ones for name in ("answers", *by_token(objective))
        }
        each_token |= {"answers": ones, "loss_weights": weighed, "answer_share": ones / np.maximum(1, lengths)[:, None]}
        spread = {name: found.spread(np.asarray(array), lengths) for name, array in each_token.items()}
        number = np.broadcast_to(np.arange(1, len(which) + 1)[:, None], ones.shape)
        spread["answer"] = [a - 1 for a in found.spread(number, lengths, np.int32)]
        declared = objective.inputs(*self._shape)
        arrays = []
        for i, batch in enumerate(found.batches):
            own = {name: array[i] for name, array in spread.items() if name in declared and name != "loss_weights"}
            own |= {name: np.array([value], np.float32) for name, value in scalars.items() if name in declared}
            whole = batch._replace(weights=spread["loss_weights"][i], drawn=own)
            arrays.append(inputs.made(whole, self.rollout, i))
        return arrays

    @property
    def kl_coefficient(self) -> float:
        """What the divergence of a token counts in the loss."""
        return self.phase.kl_coefficient

    def step_taken(self, step: int, taken: StepTaken) -> int:
        if step % self.phase.steps_per_rollout == 0:
            self._ledger.add(self.stream.batch(self.rollout))
        return sum(int(batch.filled.sum()) for batch in self._read)

    def metrics(self, taken: StepTaken) -> tuple[Metric, ...]:
        """The loss, what its objective counts per token, and how the answers of its rollout are."""
        assert self.made is not None and self._taken is not None
        made, which = self.made, self._taken[0]
        tokens = max(1, int((made.lengths * self.counted(made))[which].sum()))
        per = dict.fromkeys(taken.sums, tokens) | self.per(which)
        found = [Metric("loss", taken.sums["loss"], self.phase.objective.unit, better="lower")]
        found += [Metric(name, v / per[name], "") for name, v in taken.sums.items() if name != "loss"]
        if {"clip_low", "clip_high"} <= taken.sums.keys():
            clipped = sum(taken.sums[name] / per[name] for name in ("clip_low", "clip_high"))
            found.append(Metric("clip_fraction", clipped))
        return (*found, *(Metric(name, value) for name, value in self.told(made).items()))

    def per(self, which: np.ndarray) -> dict[str, float]:
        """What sums of a step are divided by that are not means over tokens."""
        return {}

    def told(self, made: Episodes) -> dict[str, float]:
        """How the answers of a rollout are, in numbers."""
        return {**told(made, self.scores(made)), **({"reference_kl": self.kl(made)} if self.phase.refers else {})}

    # -- validation ----------------------------------------------------------------------------------------------
    def validate(self, trainer: Trainer) -> Validation:
        """The rewards of the most probable answers to held-out prompts."""
        found, tokens = list[Metric](), 0
        greedy, codec = self.decoding.updated(temperature=0.0), self.context.prepared.codec
        for source, held_out in self.context.prepared.validation(self.plan.name).items():
            layout = held_out.layout
            assert isinstance(layout, PromptLayout)
            chosen = evenly(len(layout.kept), self.phase.validation_prompts)
            if not (prompts := [self.prompt(layout, source, "validation", block) for block in chosen]):
                continue
            try:
                drawn = list(draw(self.decoder(trainer), codec, prompts, greedy, 1, ("validation",)))
                parts, whole = scored(self.phase.judge, prompts, drawn, self.open)
            except (Refused, NotFinite) as error:  # a step that meets it will save, and stop
                self.context.watcher.notice(f"{self.plan.name}, validation of {source}: {error.problems[0].message}")
                found.append(Metric("reward", math.nan, better="higher").of(source))
                continue
            means = {"reward": whole, "ended": [float(answer.ended) for answer in drawn]}
            means |= {f"reward/{name}": scores for name, scores in parts.items() if len(parts) > 1}
            found += [Metric(n, float(np.mean(v)), better="higher").of(source) for n, v in means.items()]
            said = sum(len(answer.choices) for answer in drawn)
            found.append(Metric("answer_tokens", said / len(drawn), "tokens").of(source))
            tokens += said
        return Validation(tuple(found), tokens)

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def state(self, step: int) -> dict[str, Any]:
        return {
            "stream": self.stream.cursor(-(-step // self.phase.steps_per_rollout)),
            "ledger": self._ledger.dump(),
            "rollout": self.rollout,
            "alike": self.signs.alike,
            **({"lesson": self.lesson} if self.lesson else {}),
        }

    def tensor_shapes(self) -> Shapes:
        answers, most = self.phase.answers, self.phase.max_tokens
        shapes: Shapes = {"tokens": (answers, most)}
        shapes |= dict.fromkeys(("lengths", "ended", "rewards"), (answers,))
        shapes |= {f"reward/{name}": (answers,) for name in self.phase.judge.names}
        shapes |= {f"by_token/{name}": (answers, most) for name in self.gathered}
        return shapes

    def tensors(self) -> dict[str, Any]:
        found = {name: np.zeros(shape, np.float32) for name, shape in self.tensor_shapes().items()}
        if (made := self.made) is None:
            return found
        found |= {"tokens": made.tokens, "lengths": made.lengths, "ended": made.ended, "rewards": made.rewards}
        found |= {f"reward/{name}": array for name, array in made.parts.items()}
        found |= {f"by_token/{name}": array for name, array in made.by_token.items()}
        return {name: np.asarray(array, np.float32) for name, array in found.items()}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        rollout, per = state.get("rollout"), self.phase.steps_per_rollout
        super().restore(state, tensors, -(-step // per))
        if not isinstance(rollout, int) or rollout not in (-1, (step - 1) // per):
            raise RunError("its answers are not those of its step", hint="remove it, so that the one before it is used")
        self.rollout, self.signs.alike = rollout, int(state.get("alike") or 0)
        self.lesson = dict(state.get("lesson") or {})
        if rollout < 0:
            return
        self.made = Episodes(
            tuple(self.asked(rollout)),
            np.asarray(tensors["tokens"]).astype(np.int32),
            np.asarray(tensors["lengths"]).astype(np.int32),
            np.asarray(tensors["ended"]) != 0,
            {name: np.asarray(tensors[f"reward/{name}"]) for name in self.phase.judge.names},
            np.asarray(tensors["rewards"]),
            {name: np.asarray(tensors[f"by_token/{name}"]) for name in self.gathered},
        )

    def spent(self) -> dict[str, float]:
        found, self.seconds = self.seconds, {}
        return found


def by_token(objective: Objective) -> tuple[str, ...]:
    """Names of what an objective reads of each token of an answer, beside which there are."""
    return tuple(n for n in getattr(objective, "by_place", ()) if n != "answers")
