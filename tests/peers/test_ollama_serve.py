"""Exported models in a whole Ollama: what its server answers without chance is what llmspec answers.

LLMSPEC_OLLAMA names the program `ollama`, beside which its llama-server lies where it looks for that. It is served on
this machine alone, with models and keys in a folder of the test.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.peers
PROGRAM = os.environ.get("LLMSPEC_OLLAMA", "")
if not PROGRAM:
    pytest.skip("LLMSPEC_OLLAMA names no program", allow_module_level=True)

from paired_runs import SOURCES, trained  # noqa: E402
from test_gguf_export import model  # noqa: E402

import llmspec  # noqa: E402
from llmspec.decoding.language_model import LanguageModel  # noqa: E402
from llmspec.exchange.gguf_exporting import export_gguf  # noqa: E402

TOKENS = 12
GREEDY: Any = {"temperature": 0.0, "max_tokens": TOKENS}
DIALOGUES: list[list[tuple[str, str]]] = [
    [("user", "two pears?")],
    [("user", '  "{{ .Role }}"\n\nand  ')],
    [("system", "naïve 語 😀"), ("user", "one apple")],
    [("user", "one"), ("assistant", "two ships"), ("user", "three sheep?")],
    [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d"), ("assistant", "e"), ("user", "f")],
]
Ask = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Ask, Callable[[str, Path], None]]]:
    """(asks a path of the server, makes a model of a folder that was exported)."""
    place = tmp_path_factory.mktemp("ollama")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    own = {"OLLAMA_HOST": host, "OLLAMA_MODELS": str(place / "models"), "HOME": str(place), "OLLAMA_NO_CLOUD": "1"}
    environment = {**os.environ, **own, "OLLAMA_KV_CACHE_TYPE": "f32"}

    def ask(path: str, **body: Any) -> dict[str, Any]:
        asked = urllib.request.Request(f"http://{host}{path}", json.dumps({"stream": False, **body}).encode())
        try:
            with urllib.request.urlopen(asked, timeout=120) as said:
                return json.loads(said.read())
        except urllib.error.HTTPError as error:
            pytest.fail(error.read().decode())

    def create(name: str, folder: Path) -> None:
        command = [PROGRAM, "create", name, "-f", str(folder / "Modelfile")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    with (place / "log").open("w") as log:
        server = subprocess.Popen([PROGRAM, "serve"], env=environment, stdout=log, stderr=log)
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"http://{host}/api/version", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.25)
            yield ask, create
        finally:
            server.terminate()
            server.wait(30)


def options(**more: Any) -> dict[str, Any]:
    return {"temperature": 0, "num_predict": TOKENS, **more}


def test_dialogues_are_answered_as_here(served: Any, tmp_path: Path) -> None:
    ask, create = served
    own = model()
    export_gguf(own, tmp_path / "out")
    create("chat", tmp_path / "out")
    for dialogue in DIALOGUES:
        messages = [{"role": role, "content": text} for role, text in dialogue]
        said = ask("/api/chat", model="chat", messages=messages, options=options())
        (wanted,) = own.generate(dialogue, **GREEDY)
        assert said["prompt_eval_count"] == len(own.tokens(dialogue)), dialogue
        assert said["message"]["content"].startswith(whole(wanted.text)), dialogue
    said = ask("/api/generate", model="chat", prompt="two pears?", options=options())
    (wanted,) = own.generate("two pears?", **GREEDY)
    assert said["response"].startswith(whole(wanted.text))


def test_texts_go_on_as_here(served: Any, tmp_path: Path) -> None:
    ask, create = served
    chat = model()
    own = LanguageModel(chat.plan, chat.codec, chat.weights(), "p", chat=False)
    export_gguf(own, tmp_path / "out")
    create("base", tmp_path / "out")
    for text in ("two apples", "  a\n", "{{ .Prompt }}", "語"):
        said = ask("/api/generate", model="base", prompt=text, options=options())
        (wanted,) = own.generate(text, **GREEDY)
        assert said["prompt_eval_count"] == len(own.tokens(text))
        assert said["response"].startswith(whole(wanted.text)), text


def test_sources_of_pairs_are_answered_alone(served: Any, tmp_path: Path) -> None:
    ask, create = served
    own = llmspec.open(trained(tmp_path))
    export_gguf(own, tmp_path / "out", type="f32")
    create("pairs", tmp_path / "out")
    earlier = [{"role": "user", "content": SOURCES[-1]}, {"role": "assistant", "content": "x"}]
    for source in SOURCES:
        (wanted,) = own.generate(source, temperature=0.0, max_tokens=20)
        messages = [*earlier, {"role": "user", "content": source}]
        said = ask("/api/chat", model="pairs", messages=messages, options=options(num_predict=20))
        assert said["message"]["content"] == wanted.text and said["prompt_eval_count"] == len(own.tokens(source))


def whole(text: str) -> str:
    """A text up to where it ends in the middle of a letter, or has bytes that are none."""
    return text.split("\ufffd")[0]
