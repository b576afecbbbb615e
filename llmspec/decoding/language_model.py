"""A trained model, opened: logits and text. What `llmspec.open` returns."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmspec.backends import guest, owner
from llmspec.backends.backend import Graphs, backend
from llmspec.backends.tensors import tensors_from_numpy
from llmspec.compiler.linear_layers import readable
from llmspec.compiler.masks import ENCODER, encoder_inputs, padding_inputs, range_inputs
from llmspec.compiler.memory import device_memory
from llmspec.compiler.plan import Plan
from llmspec.compiler.sound import too_large
from llmspec.core.devices import NOWHERE, automatic, kind_of
from llmspec.core.heap import give_back
from llmspec.core.problems import LlmspecError, Problem, RunError, SpecError, one_of
from llmspec.core.quantised import Quantised
from llmspec.core.units import size
from llmspec.data.pair_form import PairForm
from llmspec.decoding import quantising
from llmspec.decoding.answer import Event
from llmspec.decoding.batch import ROWS
from llmspec.decoding.generate import Generation, generate, generates, stream, whole_answers
from llmspec.decoding.prompts import Prompt, prompt_tokens, turns_of
from llmspec.decoding.readers import TextReaders
from llmspec.decoding.spans import SpansFilled, has_spans, span_text, told
from llmspec.formats.bases import whole_weights
from llmspec.formats.opening import stored_model
from llmspec.model.buckets import SHORTEST
from llmspec.model.decoder import Decoder
from llmspec.model.ids import token_ids, whole
from llmspec.model.transformer import Transformer, block_context, graph_key
from llmspec.parts.sources.base import Attribution
from llmspec.parts.tokenizers.base import Codec
from llmspec.runs.model_folder import save_model
from llmspec.runs.stored import taught_by
from llmspec.spec.decoding import Decoding
from llmspec.spec.translate import Translator

MOST_ANSWERS, MOST_ROWS = 1 << 16, 256


class LanguageModel(TextReaders):
    """Weights, tokenizer and decoding settings of a run or a saved model. Open it with `llmspec.open`.

    From any thread: calls queue for the device, a stream token by token. After a fork the child goes on with a copy; on
    other devices than a CPU, and on other systems than Linux, its calls raise RunError. Wrong arguments raise
    TypeError, ValueError or LlmspecError, and where memory ends RunError.
    """

    def __init__(
        self, plan: Plan, codec: Codec, weights: dict[str, Any], phase: str, plain: bool = False, *, chat: bool
    ) -> None:
        self.plan, self.codec, self.phase = plan, codec, phase
        self.chat, self.pairs = chat, False
        """Whether prompts are a user's turns, to be answered, rather than text to be continued; or sources of pairs."""
        self.taught = taught_by(plan, codec, phase)
        """What it was trained for last; nothing where its plan has no phases."""
        start = codec.specials.start_of(plan.model.decoder_start)
        with owner.turn():
            self._backend = backend(plan.device, plain, plan.precision)
            arrays = {t.name: weights[t.name] for t in plan.model.tensors}
            self._quantised = {n: w for n, w in arrays.items() if isinstance(w, Quantised)}
            self._weights, self._layouts = self._backend.hold(arrays, readable(plan.model))
            self._model = Transformer(plan.model, self._layouts)
            self._graphs = Graphs(lambda: self._backend.jit(self._forward, graph_key(plan.model, self._layouts)))
            self.decoder = Decoder(plan.model, self._backend, self._weights, start, self._layouts)
            self._tables = self.decoder.positions.tensors  # constants of the positions: the same ones
        self.types = {name: layout.type for name, layout in self._layouts.items()}
        """The types of weights that stay quantised in memory; others are float32."""
        super().__init__()
        self.notices: list[str] = []
        self.attributions: tuple[Attribution, ...] = ()
        """Whom to name for what the model has read."""

    def __repr__(self) -> str:
        model = self.plan.model
        return (
            f"<LanguageModel {self.plan.name}, weights of {self.phase}: {model.parameters:,} parameters, "
            f"vocabulary {model.vocab:,}, context {model.context:,}, on {self.plan.device}>"
        )

    def __reduce__(self) -> Any:
        raise TypeError(
            "a LanguageModel cannot be pickled or copied, since it holds compiled code and memory of this "
            "process: call llmspec.open with the run's folder where it is needed"
        )

    def save(self, path: Path | str) -> Path:
        """Writes the model into a new folder, which `llmspec.open` and `llmspec sample` open without a run: plan.json
        (model, chat template, decoding settings), tokenizer.json, model.safetensors, model.json.

        Raises TypeError for what is no path, RunError where something stands there or it cannot be written.
        """
        if not isinstance(path, str | Path):
            raise TypeError(f"a model is saved to the path of a new folder, not {type(path).__name__}")
        arrays = {**self.weights(), **self._quantised}
        return save_model(
            Path(path),
            self.plan,
            self.codec.to_json(),
            arrays,
            phase=self.phase,
            chat=self.chat,
            attributions=self.attributions,
            pairs=self.pairs,
            taught=self.taught,
        ).path

    def weights(self) -> dict[str, Any]:
        """Copies of its weights by name, float32; of those that stay quantised, the numbers that they stand for."""
        with owner.turn():
            return {
                name: self._backend.numbers(tensor, self._layouts.get(name)) for name, tensor in self._weights.items()
            }

    def logits(self, tokens: Any, encoder_tokens: Any = None) -> Any:
        """Logits (B, T, V) float32 of token ids (B, T) or (T,), T up to the context; for (T,) B is 1. A model with an
        encoder also takes what that reads, ids (B, S) or (S,), S up to the encoder's context.

        Raises TypeError or ValueError for what are no ids of this model, RunError where memory ends.
        """
        import numpy as np

        model = self.plan.model
        ids = np.atleast_2d(token_ids(tokens, model.vocab, model.context))
        rows, length = ids.shape
        bucket = min(model.context, max(SHORTEST, 1 << (length - 1).bit_length()))
        needed, there = 4 * rows * bucket * model.vocab, device_memory(self.plan.device)
        if there is not None and needed > there:
            raise owner.out_of_memory(f"the logits of {rows} rows take {size(needed)}; this machine has {size(there)}")
        padded = np.zeros((rows, bucket), np.int32)
        padded[:, :length] = ids
        arrays = {"tokens": padded, **range_inputs(model, False, bucket, filled_B=[length] * rows)}
        arrays |= padding_inputs(model, model.decoder, [length] * rows, bucket)
        arrays |= self._encoder_arrays(encoder_tokens, rows, bucket)
        key = (rows, bucket, *(arrays[f"{ENCODER}tokens"].shape[1:] if model.encoder else ()))
        with owner.turn():
            self.decoder.positions.reach(max(key[1:]))
            inputs = {**tensors_from_numpy(**arrays), **self._backend.inputs}
            return self._graphs[key].array(self._weights, self._tables, inputs)[:, :length]

    def _encoder_arrays(self, given: Any, rows: int, tokens: int) -> dict[str, Any]:
        """What the encoder reads, for `rows` rows whose decoder reads `tokens`; nothing without one."""
        import numpy as np

        model = self.plan.model
        if (given is None) != (model.encoder is None):
            wants = (
                "needs `encoder_tokens`, what its encoder reads" if model.encoder else "has no encoder to read tokens"
            )
            raise TypeError(f"this model {wants}")
        if model.encoder is None:
            return {}
        ids = np.atleast_2d(token_ids(given, model.vocab, model.encoder_context))
        if len(ids) != rows:
            raise ValueError(f"the encoder reads a text for each of {rows} rows, not {len(ids)}")
        length = ids.shape[1]
        bucket = min(model.encoder_context, max(SHORTEST, 1 << (length - 1).bit_length()))
        padded = np.zeros((rows, bucket), np.int32)
        padded[:, :length] = ids
        return {f"{ENCODER}tokens": padded, **encoder_inputs(model, [length] * rows, bucket, tokens)}

    def _forward(self, weights: Any, tables: Any, inputs: Any) -> Any:
        ops = self._backend.ops(inputs)
        return self._model.logits(ops, {**weights, **tables}, inputs, block_context(inputs)).realize()

    @property
    def drawing(self) -> Decoder:
        """The decoder that draws text. Raises LlmspecError for a model that goes on with none."""
        if (instead := self.instead) is not None:
            gives, verb, named = instead
            raise LlmspecError(
                f"this model {gives}, and draws no text",
                hint=f"`llmspec {verb}`; in Python, `{named}`; --phase names another phase's weights",
                consequence="its last layers were trained for something else",
            )
        generates(self.plan.model, self.fills)
        return self.decoder

    def tokens(self, prompt: Prompt, chat: bool | None = None) -> list[int]:
        """Ids of a prompt: a text, a user's turn, or turns of (role, text). Raises TypeError, LlmspecError."""
        if not isinstance(chat, bool | None):
            raise TypeError(f"chat is True, False or None, not {chat!r}")
        given = prompt if isinstance(prompt, str) else turns_of(prompt)
        answered = self.chat if chat is None else chat
        if isinstance(given, str) and not answered and has_spans(self.codec, given):
            before, after = PairForm(encoder=self.plan.model.encoder is not None).around(self.codec.specials)
            return [*before, *span_text(self.codec, given).ids, *after]
        how = self.plan.tokenizer.markers, self.plan.model.encoder is not None, self.pairs
        return prompt_tokens(self.codec, self.plan.chat_template, given, answered, *how)

    def settings(self, decoding: Decoding | None = None, **changes: Any) -> Decoding:
        """These decoding settings (the run's where none are given) with some replaced; strict like the spec's.

        Raises SpecError with every setting that is wrong.
        """
        if not isinstance(decoding, Decoding | None):
            raise TypeError(f"decoding is a Decoding, such as `model.settings()` gives, not {decoding!r}")
        if unknown := [k for k in changes if k not in Decoding.model_fields]:
            raise SpecError(
                Problem(f"no decoding setting is named `{k}`", hint=one_of(k, Decoding.model_fields)) for k in unknown
            )
        try:
            return (decoding or self.plan.decoding).updated(**changes)
        except ValidationError as error:
            raise SpecError(Translator(Decoding, (), changes, lambda path: None).problems(error.errors())) from None

    def generate(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        seed: int | None = None,
        chat: bool | None = None,
        decoding: Decoding | None = None,
        **changes: Any,
    ) -> list[Generation]:
        """`n` answers to a prompt, with the run's decoding settings unless others, or changes to them, are given."""
        settings, n = self.settings(decoding, **changes), whole("n", n, 1, MOST_ANSWERS)
        return generate(
            self.drawing,
            self.codec,
            [self.tokens(prompt, chat)],
            settings,
            n=n,
            seed=self.seed(seed, settings),
            chat=self.chat if chat is None else chat,
        )

    def fills_spans(self, prompt: Prompt) -> bool:
        """Whether a prompt is a text with `<extra_id_0>` … or `[MASK]` where this model says what is left out."""
        return self.plan.model.generates and has_spans(self.codec, prompt)

    def fill_spans(
        self,
        text: str,
        *,
        n: int = 1,
        seed: int | None = None,
        decoding: Decoding | None = None,
        **changes: Any,
    ) -> list[SpansFilled]:
        """What stands at each `<extra_id_0>`, `<extra_id_1>` … of a text, `n` times, by a model of span corruption.

        Raises TypeError for what is no text, LlmspecError where the tokenizer has no sentinels, the text no such place,
        too many, or in another order.
        """
        if not isinstance(text, str):
            raise TypeError("fill_spans takes a text with <extra_id_0> where something is to be filled in")
        given = span_text(self.codec, text)
        answers = self.generate(text, n=n, seed=seed, chat=False, decoding=decoding, **changes)
        return [told(self.codec, given, answer) for answer in answers]

    def stream(
        self,
        prompt: Prompt,
        *,
        n: int = 1,
        seed: int | None = None,
        chat: bool | None = None,
        tracing: bool = False,
        decoding: Decoding | None = None,
        **changes: Any,
    ) -> Iterator[Event]:
        """The same, token by token; with `tracing` each event tells what every filter did.

        A stream has a KV cache of its own: others, and whole answers, may come between its tokens.
        """
        settings, n = self.settings(decoding, **changes), whole("n", n, 1, MOST_ANSWERS)
        return stream(
            self.drawing,
            self.codec,
            [self.tokens(prompt, chat)],
            settings,
            n=n,
            tracing=tracing,
            seed=self.seed(seed, settings),
            chat=self.chat if chat is None else chat,
        )

    def generate_batch(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        seed: int | None = None,
        chat: bool | None = None,
        decoding: Decoding | None = None,
        on_token: Callable[[Event], object] | None = None,
        notice: Callable[[str], object] | None = None,
        rows: int = ROWS,
        **changes: Any,
    ) -> Generator[list[Generation]]:
        """`n` answers to each of many prompts, drawn side by side: in the order of the prompts, as soon as whole.

        Each has the text that `generate` gives. `on_token` sees every event, whose row is prompt * n + sample. Up to
        `rows` answers are drawn at once; `notice` is told where memory lets fewer be. A KeyboardInterrupt comes after
        what is whole.
        """
        settings, n = self.settings(decoding, **changes), whole("n", n, 1, MOST_ANSWERS)
        rows = whole("rows", rows, 1, MOST_ROWS)
        if isinstance(prompts, str):
            raise TypeError("generate_batch takes a list of prompts; `generate` takes one")
        events = stream(
            self.drawing,
            self.codec,
            [self.tokens(prompt, chat) for prompt in prompts],
            settings,
            n=n,
            seed=self.seed(seed, settings),
            chat=self.chat if chat is None else chat,
            notice=notice,
            rows=rows,
        )
        return whole_answers(events, n, on_token)

    def seed(self, given: int | None, settings: Decoding) -> int:
        """The seed asked for, else the decoding's, else the spec's."""
        if given is not None:
            return whole("seed", given, -(1 << 63), (1 << 64) - 1)
        return self.plan.seed if settings.seed is None else settings.seed


def open_model(
    path: Path | str, *, plain: bool = False, phase: str | None = None, quantize: str | None = None
) -> LanguageModel:
    """The model of a folder: the newest weights of a run directory, or those of one `phase`; or a model without a run,
    as `LanguageModel.save` writes it. `plain` forces the reference operations.

    Weights stay in memory as they lie in the file; `quantize` makes matrices of float32 `q8_0`, `q4_0` or `q4_k`, or
    with `f32` all weights float32. Raises LlmspecError for another type, or one that no matrix can have.

    Nothing in the folder is believed: names, shapes, types and hashes are compared with its plan and its lock (of a
    model without a run: model.json) before anything is made of them. Raises RunError and DataError.

    The environment, signal handlers, the number of threads of numpy's BLAS and the recursion limit are afterwards what
    they were. What stays, while the process lives: the threads that compute, asleep; tinygrad, imported without the
    environment's variables for it (`LLMSPEC_TINYGRAD` names those that it is to read), whose kernels for the CPU are
    compiled by the compiler that was found and kept in llmspec's cache, unless CACHEDB names a file. If tinygrad was
    imported before, it keeps what it has read, and its DEV, JIT and BEAM are ours only while we compute.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"llmspec.open takes the path of a run or of a saved model, not {type(path).__name__}")
    quantising.check(quantize)
    folder = stored_model(Path(path))
    written = folder.plan()
    if why := too_large(written):
        raise RunError(f"{folder.path} cannot be opened here: {why}", hint="open it on a machine with more memory")
    codec = folder.tokenizer(written)
    of, weights, notices = whole_weights(folder, written, phase)
    weights, said = quantising.quantised(written.model, weights, quantize)
    give_back()  # what reading took and freed, before the weights are held
    with owner.turn(), guest.visit():
        plan, elsewhere = here(written)
        model = LanguageModel(plan.of(of), codec, weights, of, plain, chat=folder.chat(written, of))
    model.notices, model.pairs = [*elsewhere, *notices, *said], folder.pairs(written, of)
    model.taught = folder.taught(written, codec, of)
    model.attributions = folder.attributions(written)
    return model


def here(plan: Plan) -> tuple[Plan, list[str]]:
    """The plan on a device that is open, and a notice where that is another than it was trained on. Raises RunError.

    A process computes on one device, the first that was opened: tensors are made there unless they are told otherwise.
    """
    from llmspec.model.device import open_device

    used = guest.chosen()
    if used is not None and kind_of(used) not in (kind_of(plan.device), NOWHERE):
        notice = f"trained on {plan.device}; it runs on {used}, where this process computes already"
        return plan.model_copy(update={"device": used, "beam": 0}), [notice]
    try:
        open_device(plan.device, plan.beam)
        return plan, []
    except RunError:
        device, _ = automatic()
        if device == plan.device:
            raise
        open_device(device)
        notice = f"trained on {plan.device}, which this machine does not have: it runs on {device}"
        return plan.model_copy(update={"device": device, "beam": 0}), [notice]
