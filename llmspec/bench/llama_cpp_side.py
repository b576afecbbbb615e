"""Prefill and decoding of a GGUF file by llama.cpp, through the functions of llama-cpp-python: the peer of such files.

Shape letters: R texts side by side, V vocabulary.
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np

from llmspec.bench.batches import prompt
from llmspec.bench.task import CHECKED, ROWS, WARM, BenchError, Result, Task, greedy, tokens_of
from llmspec.core.devices import threads
from llmspec.core.problems import Problem
from llmspec.forecast.process_memory import peak_bytes
from llmspec.forecast.timing import Numbers, timed

QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)


def run(task: Task) -> Result:
    """Measures prefill or decoding in this process. Raises BenchError for a file that llama.cpp does not read."""
    rows = ROWS if task.work == "batch" else 1
    length, decoded = tokens_of(task)
    session = Session(str(task.model), rows, rows * (length + decoded + 1), length)
    seconds, check = prefill(task, session) if task.work == "prefill" else decode(task, session, rows)
    name = f"llama.cpp of llama-cpp-python {llama_cpp.__version__}"
    return Result(name=name, seconds=seconds, check=check, peak_bytes=peak_bytes())


def prefill(task: Task, session: Session) -> tuple[Numbers, Numbers]:
    """(seconds of prefills, logits of what follows the prompt)."""
    tokens = prompt(task.plan, tokens_of(task)[0])
    for _ in range(WARM):
        logits = session.start([tokens])
    return timed(lambda: session.start([tokens]), task.steps), tuple(map(float, logits[0, :CHECKED]))


def decode(task: Task, session: Session, rows: int) -> tuple[Numbers, Numbers]:
    """(seconds of each step of `rows` texts, logits of the first one's after its first)."""
    length, decoded = tokens_of(task)
    prompts = [prompt(task.plan, length + 1, row) for row in range(rows)]

    def begin() -> Any:
        session.start([tokens[:length] for tokens in prompts])
        return session.step([tokens[length] for tokens in prompts])

    return greedy(begin, session.step, decoded)


class Session:
    """A model with room for some texts side by side, and a thread for each that llmspec would use."""

    def __init__(self, path: str, rows: int, places: int, prompt: int) -> None:
        llama_cpp.llama_log_set(QUIET, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
        if not self.model:
            raise BenchError(Problem(f"llama.cpp cannot read {path}", hint="export it anew"))
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_seq_max = max(64 * rows, places), max(prompt, rows), rows
        wanted.n_threads = wanted.n_threads_batch = threads()
        wanted.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, wanted)
        if not self.context:
            raise BenchError(Problem(f"llama.cpp cannot make room for {places} tokens of {path}"))
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch, self.at = llama_cpp.llama_batch_init(max(prompt, rows), 0, 1), [0] * rows

    def start(self, prompts: list[list[int]]) -> Any:
        """Logits (1, V) of what follows the last prompt, each in a row of its own, which begins anew."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.at = [0] * len(prompts)
        for row, tokens in enumerate(prompts):
            logits = self._read([(token, row) for token in tokens], 1)
        return logits

    def step(self, tokens: list[int]) -> Any:
        """Logits (R, V) of what follows one more token in each row."""
        return self._read([(token, row) for row, token in enumerate(tokens)], len(tokens))

    def _read(self, tokens: list[tuple[int, int]], wanted: int) -> Any:
        """Logits (wanted, V) after the last `wanted` of (token, row)."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, row) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, self.at[row], 1, row
            batch.logits[i] = i >= len(tokens) - wanted
            self.at[row] += 1
        if status := llama_cpp.llama_decode(self.context, batch):
            raise BenchError(Problem(f"llama.cpp's llama_decode ended with status {status}"))
        held = [
            np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, i - wanted), (self.vocab,))
            for i in range(wanted)
        ]
        return np.stack(held)
