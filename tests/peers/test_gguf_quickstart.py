"""The quickstart, trained whole, exported, and asked in llama.cpp: the same answers, token by token. Minutes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.peers, pytest.mark.nightly]
llama_cpp = pytest.importorskip("llama_cpp")

import tiny  # noqa: E402

import llmspec  # noqa: E402

QUESTIONS = ["What is a violin?", "What is a comet?", "Who wrote Hamlet?", "What is bread?", "What is the moon?"]
TOKENS = 32


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run; LLMSPEC_QUICKSTART names the folder of one that is there already."""
    if there := os.environ.get("LLMSPEC_QUICKSTART"):
        return Path(there)
    out = tmp_path_factory.mktemp("quickstart") / "run"
    done = tiny.call("run", "quickstart", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_of_quickstart_answers_the_same_in_llama_cpp(run: Path, tmp_path: Path) -> None:
    done = tiny.call("export", run, "--to", "gguf", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "llama.cpp" in done.stdout  # which has read the file back: ids, logits, greedy text, nats per token
    (file,) = (tmp_path / "out").glob("*.gguf")
    own = llmspec.open(run)
    theirs = llama_cpp.Llama(str(file), n_ctx=own.plan.model.context, verbose=False, type_k=0, type_v=0)
    for question in QUESTIONS:
        asked: Any = [{"role": "user", "content": question}]
        said = theirs.create_chat_completion(asked, temperature=0.0, max_tokens=TOKENS, repeat_penalty=1.0)
        settings: Any = {"temperature": 0.0, "frequency_penalty": 0.0, "max_tokens": TOKENS}  # as asked there
        (wanted,) = own.generate([("user", question)], chat=True, **settings)
        text = said["choices"][0]["message"]["content"]
        assert wanted.text and text.startswith(wanted.text.rstrip("\ufffd")), (question, text, wanted.text)
