"""Training on packed text: batches from a stream, validation on text kept apart, samples of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llmspec.compiler.plan import PhasePlan
from llmspec.core.problems import LlmspecError, RunError
from llmspec.data.inputs import VALIDATION, Arrays
from llmspec.data.layout import Batch
from llmspec.data.ledger import Ledger
from llmspec.data.rows import joined
from llmspec.decoding.generate import Generation, generate
from llmspec.model.decoder import Decoder
from llmspec.training.context import RunContext
from llmspec.training.prompts import Prompt, prompts_of
from llmspec.training.tasks.base import Looks, Sample, Task, Validation
from llmspec.training.trainer import StepTaken, Trainer


class Supervised(Task):
    """Blocks of tokens in the order that the seed draws, each of whose supervised targets counts once."""

    def __init__(self, context: RunContext, phase: PhasePlan) -> None:
        super().__init__(context, phase)
        self.stream = context.prepared.stream(phase.name)
        self._arrays = context.prepared.inputs(phase.name)
        self._ledger, self._read = self.stream.ledger(), list[Batch]()
        self._decoder: Decoder | None = None
        self._prompts = prompts_of(context.plan, phase, context.prepared) if phase.draws else ()

    def batches(self, step: int) -> list[Arrays]:
        lengths = self.phase.row_lengths(self.plan.model.context)
        inputs = self._arrays.of_length(lengths.at(step, self.stream.steps))
        whole = [self.stream.batch(step, micro) for micro in range(self.stream.passes(step))]
        asked = [inputs.asked(inputs.cut(batch), step, micro) for micro, batch in enumerate(whole)]
        self._read = [joined(short, batch) for short, batch in zip(asked, whole, strict=True)]
        return [inputs.made(batch, step, micro) for micro, batch in enumerate(asked)]

    def step_taken(self, step: int, taken: StepTaken) -> int:
        for batch in self._read:
            self._ledger.add(batch)
        return sum(int(batch.read.sum()) for batch in self._read)

    def validate(self, trainer: Trainer) -> Validation:
        """Every validation token of the mixture's sources once."""
        found, tokens = [], 0
        for source, held_out in self.context.prepared.validation(self.plan.name).items():
            sums = dict.fromkeys((*trainer.steps.evaluated, "loss_weights"), 0.0)
            for i, batch in enumerate(held_out):
                arrays = self._arrays(batch, VALIDATION, source, i)
                of_batch = {**trainer.evaluate(arrays), "loss_weights": float(arrays["loss_weights"].sum())}
                sums = {name: total + of_batch[name] for name, total in sums.items()}
            metrics = self.phase.objective.metrics(sums, held_out.characters)
            found += [metric.of(source) for metric in metrics]
            tokens += int(sums["loss_weights"])
        return Validation(tuple(found), tokens)

    # -- samples -------------------------------------------------------------------------------------------------
    @property
    def samples_drawn(self) -> int:
        return len(self._prompts)

    def samples(self, trainer: Trainer) -> Iterator[Sample]:
        """Text as the model writes it now; chat phases answer their prompts."""
        for prompt in self._prompts:
            try:
                said = self._answer(trainer, prompt)
                looks = self.looks(trainer, prompt, said.tokens)
            except Exception as e:
                self._decoder = None  # nobody knows where it stopped
                why = e.problems[0].message if isinstance(e, LlmspecError) else f"{type(e).__name__}: {e}"
                yield Sample(prompt.text, "", "error", prompt.origin, why, target=prompt.target)
            else:
                yield Sample(
                    prompt.text,
                    self.said(prompt, said),
                    said.finish_reason,
                    prompt.origin,
                    target=prompt.target,
                    attention=looks,
                )

    def said(self, prompt: Prompt, answer: Generation) -> str:
        """An answer to a prompt as it is shown."""
        return answer.text

    def looks(self, trainer: Trainer, prompt: Prompt, answer: Sequence[int]) -> Looks:
        """What of a prompt each word of an answer looked at; nothing where that is not known."""
        return ()

    def _answer(self, trainer: Trainer, prompt: Prompt) -> Generation:
        """What the model says to a prompt."""
        plan, codec = self.context.plan, self.context.prepared.codec
        seed = plan.seed if plan.decoding.seed is None else plan.decoding.seed
        (answer,) = generate(self.decoder(trainer), codec, [prompt.tokens], plan.decoding, seed=seed, chat=prompt.chat)
        return answer

    def decoder(self, trainer: Trainer) -> Decoder:
        """What draws text from the weights as they are now."""
        if self._decoder is None:
            start = self.context.prepared.codec.specials.start_of(self.plan.model.decoder_start)
            held = trainer.weights, start, trainer.layouts
            self._decoder = Decoder(self.plan.model, self.context.backend, *held)
        return self._decoder

    # -- checkpoints ---------------------------------------------------------------------------------------------
    def ledger(self) -> list[dict[str, Any]]:
        return self._ledger.rows()

    def state(self, step: int) -> dict[str, Any]:
        return {"stream": self.stream.cursor(step), "ledger": self._ledger.dump()}

    def restore(self, state: Mapping[str, Any], tensors: Mapping[str, Any], step: int) -> None:
        stream, ledger = state.get("stream", {}), state.get("ledger", {})
        if not (isinstance(stream, dict) and isinstance(ledger, dict)):
            raise RunError("its place in the data is damaged", hint="remove it, so that the one before it is used")
        if self.stream.check_cursor(stream) != step:
            raise RunError(
                f"its place in the data is not after step {step}",
                hint="remove it, so that the one before it is used",
            )
        self._ledger = Ledger.load(ledger)
