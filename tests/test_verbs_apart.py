"""A command line of one verb says what the whole one says of it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from llmspec.cli.app import app, app_for, named

VERBS = [named(command) for command in app.registered_commands]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("more", [["--help"], ["--no-such-option"], ["a", "b", "c", "d", "e"]])
def test_a_verb_alone_is_the_same_verb(verb: str, more: list[str]) -> None:
    alone = app_for([verb, *more])
    assert [named(command) for command in alone.registered_commands] == [verb]
    found = [CliRunner().invoke(one, [verb, *more], prog_name="llmspec") for one in (alone, app)]
    assert [r.exit_code for r in found] == [found[1].exit_code] * 2 and found[1].exit_code == (2 * (more != ["--help"]))
    assert found[0].output == found[1].output


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version", "run"], ["rum"], ["Run"], [""]])
def test_what_is_no_verb_is_told_of_all(arguments: list[str]) -> None:
    assert app_for(arguments) is app and len(VERBS) == len({*VERBS}) > 9
