"""A trained model, opened: logits and text. What `llmspec.open` returns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmspec.compiler.masks import Mask
from llmspec.compiler.plan import Plan
from llmspec.compiler.sound import too_large
from llmspec.core.devices import automatic
from llmspec.core.problems import RunError
from llmspec.decoding.generate import Event, Generation, generate, stream
from llmspec.decoding.template import chat_prompt, text_prompt
from llmspec.model.decoder import SHORTEST, Decoder
from llmspec.model.lowering import lowering, numpy_inputs
from llmspec.model.transformer import Transformer, block_view
from llmspec.parts.tokenizers.base import Codec
from llmspec.runs.run import RunFolder
from llmspec.spec.decoding import Decoding


class LanguageModel:
    """Weights, tokenizer and decoding settings of a run. Open it with `llmspec.open`."""

    def __init__(self, plan: Plan, codec: Codec, weights: dict[str, Any], phase: str, plain: bool = False) -> None:
        self.plan, self.codec, self.phase = plan, codec, phase
        self.chat: bool = plan.phase(phase).phase.dialogues
        """Whether prompts are a user's turns, to be answered, rather than text to be continued."""
        self._lowering = lowering(plan.device, plain, plan.precision)
        self._weights = numpy_inputs(**{t.name: weights[t.name] for t in plan.model.tensors})
        self._model = Transformer(plan.model)
        self._tables = numpy_inputs(**self._model.tables())
        self._jits: dict[tuple[int, int], Any] = {}
        self.decoder = Decoder(plan.model, self._lowering, self._weights)
        self.notices: list[str] = []

    def logits(self, tokens: Any) -> Any:
        """Logits (B, T, V) float32 of token ids (B, T) or (T,), T up to the context."""
        import numpy as np

        ids = np.atleast_2d(np.asarray(tokens, np.int32))
        rows, length = ids.shape
        if not 1 <= length <= self.plan.model.context:
            raise ValueError(f"1 to {self.plan.model.context} tokens, not {length}")
        bucket = min(self.plan.model.context, max(SHORTEST, 1 << (length - 1).bit_length()))
        padded = np.zeros((rows, bucket), np.int32)
        padded[:, :length] = ids
        jit = self._jits.setdefault((rows, bucket), self._lowering.jit(self._forward))
        inputs = {**numpy_inputs(tokens=padded, spans=Mask().spans(bucket)), **self._lowering.inputs}
        return jit(self._weights, self._tables, inputs).numpy()[:, :length].copy()

    def _forward(self, weights: Any, tables: Any, inputs: Any) -> Any:
        view = block_view(inputs["tokens"].shape[1], inputs["spans"])
        ops = self._lowering.ops(inputs)
        return self._model.logits(ops, {**weights, **tables}, inputs["tokens"], view).realize()

    def tokens(self, prompt: str | Sequence[tuple[str, str]], chat: bool | None = None) -> list[int]:
        """Ids of a prompt: a text, a user's turn, or turns of (role, text)."""
        markers = self.plan.tokenizer.markers
        if not isinstance(prompt, str):
            return chat_prompt(self.codec, list(prompt), markers)  # type: ignore[arg-type]
        if self.chat if chat is None else chat:
            return chat_prompt(self.codec, [("user", prompt)], markers)
        return text_prompt(self.codec, prompt, markers)

    def settings(self, decoding: Decoding | None = None, **changes: Any) -> Decoding:
        """These decoding settings (the run's where none are given) with some replaced; strict like the spec's."""
        return (decoding or self.plan.decoding).updated(**changes)

    def generate(self, prompt: str | Sequence[tuple[str, str]], *, n: int = 1, seed: int | None = None,
                 chat: bool | None = None, decoding: Decoding | None = None, **changes: Any) -> list[Generation]:
        """`n` answers to a prompt, with the run's decoding settings unless others, or changes to them, are given."""
        settings = self.settings(decoding, **changes)
        return generate(self.decoder, self.codec, [self.tokens(prompt, chat)], settings, n=n,
                        seed=self.seed(seed, settings), chat=self.chat if chat is None else chat)

    def stream(self, prompt: str | Sequence[tuple[str, str]], *, n: int = 1, seed: int | None = None,
               chat: bool | None = None, tracing: bool = False, decoding: Decoding | None = None,
               **changes: Any) -> Iterator[Event]:
        """The same, token by token; with `tracing` each event tells what every filter did."""
        settings = self.settings(decoding, **changes)
        return stream(self.decoder, self.codec, [self.tokens(prompt, chat)], settings, n=n, tracing=tracing,
                      seed=self.seed(seed, settings), chat=self.chat if chat is None else chat)

    def seed(self, given: int | None, settings: Decoding) -> int:
        """The seed asked for, else the decoding's, else the spec's."""
        return next((s for s in (given, settings.seed) if s is not None), self.plan.seed)


def open_model(path: Path | str, *, plain: bool = False, phase: str | None = None) -> LanguageModel:
    """The newest weights of a run directory, or those of one `phase`. `plain` forces the reference operations.

    Nothing in the directory is believed: names, shapes, types and hashes are compared with its plan and its lock
    before anything is made of them. Raises RunError and DataError.
    """
    folder = RunFolder.open(Path(path))
    written = folder.plan()
    if why := too_large(written):
        raise RunError(f"{folder.path} cannot be opened here: {why}", hint="open it on a machine with more memory")
    codec = folder.tokenizer(written)
    of, weights, notices = folder.weights(written, phase)
    plan, elsewhere = here(written)
    model = LanguageModel(plan, codec, weights, of, plain)
    model.notices = [*elsewhere, *notices]
    return model


def here(plan: Plan) -> tuple[Plan, list[str]]:
    """The plan on a device that is open, and a notice where that is another than it was trained on. Raises RunError."""
    from llmspec.model.device import open_device

    try:
        open_device(plan.device, plan.beam)
        return plan, []
    except RunError:
        device, _ = automatic()
        if device == plan.device:
            raise
        open_device(device)
        notice = f"trained on {plan.device}, which is not here: it runs on {device}"
        return plan.model_copy(update={"device": device, "beam": 0}), [notice]
