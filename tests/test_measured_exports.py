"""Types of few bits are not written without a text on which their cost is measured."""

from __future__ import annotations

from pathlib import Path

import gguf_files
import pytest
from test_gguf_export import TEXT, model
from typer.testing import CliRunner

import llmspec
from llmspec.cli.app import app
from llmspec.core.problems import LlmspecError
from llmspec.exchange import held_out
from llmspec.exchange.gguf_exporting import export_gguf
from llmspec.exchange.importing import import_folder
from llmspec.formats.gguf import exporting
from llmspec.formats.gguf.importing import GGUFFile
from llmspec.formats.gguf.tables import tables


def words(folder: Path) -> Path:
    (folder / "held_out.txt").write_text(TEXT)
    return folder / "held_out.txt"


def test_four_bits_are_not_written_unmeasured(tmp_path: Path) -> None:
    """Unless the matrices lie in that very type already; types of more bits need no text."""
    own, text = model(), words(tmp_path)
    few = [type for type in exporting.OFFERED if held_out.few_bits(type)]
    for type in exporting.OFFERED:
        if held_out.few_bits(type):
            with pytest.raises(LlmspecError, match=rf"(?s)what {type} costs cannot be measured: the.*--text FILE"):
                export_gguf(own, tmp_path / type, type=type)
            found = export_gguf(own, tmp_path / type, type=type, text=text).file
            assert found is not None and found.cost is not None
        else:
            found = export_gguf(own, tmp_path / type, type=type).file
            assert found is not None and found.cost is None and found.unmeasured
    assert few == [type for type in exporting.OFFERED if "4" in type]
    for there in few:
        path = tmp_path / there / f"small-{there}.gguf"
        again, lying = llmspec.open(path, quantize="f32"), GGUFFile(path)
        weights = lying.weights(lying.plan())[1]
        for type in ("", *few):
            out = tmp_path / f"{there}-{type}"
            if type in ("", there):
                assert export_gguf(again, out, weights=weights, type=type).file
            else:
                with pytest.raises(LlmspecError, match="cannot be measured"):
                    export_gguf(again, out, weights=weights, type=type)


def test_a_model_without_a_run_is_asked_for_a_text(tmp_path: Path) -> None:
    """Also where it was opened from an import, through the command."""
    import_folder(gguf_files.small(tmp_path / "small.gguf", tables()["llama"]), tmp_path / "imported")
    given = ["export", str(tmp_path / "imported"), "--to", "gguf", "--type", "q4_0", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, given)
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "what q4_0 costs cannot be measured: the model has no run" in said
    assert "--text FILE" in said and "rounded to four bits" in said and not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*given, "--text", str(words(tmp_path))])
    assert done.exit_code == 0 and "nats per token before" in " ".join(done.output.split()), done.output
