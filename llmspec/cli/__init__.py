"""The doorway: `from llmspec.cli import main`. Light, so that Ctrl-C is heard before anything is imported."""

from __future__ import annotations

import sys
from gc import freeze, set_threshold
from os import environ

ALLOCATED = 200_000
"""Objects, made and not freed, after which Python looks for circles: 700 are usual, and a start makes hundreds of
thousands that stay, which were looked through again and again for a tenth of its time."""
NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"
"""Variable by which pydantic does not go through all that is installed for plugins of its own."""


def main() -> None:
    """The command `llmspec`: its arguments are those of the process, and it ends with an exit status."""
    set_threshold(ALLOCATED)  # of a process that is ours
    environ.setdefault(NO_PLUGINS, "__all__")
    try:
        status = answered(sys.argv[1:])
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status = 130
    finally:
        forget_interruption()
        freeze()  # the end of a process looks for circles, too, for a tenth of a second
    sys.exit(status)


def forget_interruption() -> None:
    """Lets the process end with its status after a Ctrl-C that was dealt with.

    Python keeps a note of each KeyboardInterrupt that left code run by `exec`, as dataclasses make their methods, even
    where it was caught later, and at the end would kill the process by that signal. Any other `exec` removes the note.
    """
    exec("")


def answered(arguments: list[str]) -> int:
    """Runs one command line and returns its exit status."""
    from llmspec.render.terminal import lost, prepare_streams, settle

    closed = prepare_streams()
    from llmspec.cli.app import app_for
    from llmspec.cli.failures import STOPPED, Answer, Ended, explained, tell
    from llmspec.cli.verb import usage

    try:
        if "stdout" in closed:
            refuse_silence(arguments)
        found = app_for(arguments)(arguments, prog_name="llmspec", standalone_mode=False)
        sys.stdout.flush()
        if found == STOPPED:  # typer's answer to Ctrl-C before a verb has begun
            raise KeyboardInterrupt
        return found if isinstance(found, int) else 0
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        # typer ends the process itself, and without a word, where its help meets a closed pipe
        cause = error.__context__ if isinstance(error, SystemExit) else error
        if isinstance(error, Ended) or (isinstance(error, SystemExit) and not isinstance(cause, OSError)):
            raise
        if isinstance(cause, OSError) and not cause.filename:
            cause = lost(cause)
        failure = explained(usage(cause, arguments) if hasattr(cause, "format_message") else cause or error)
        settle()
        tell(failure, Answer(sys.stdout) if "--json" in arguments else None)
        return failure.status
    finally:
        settle()


def refuse_silence(arguments: list[str]) -> None:
    """Standard output is closed: a run goes on without it, everything else would do its work for nobody."""
    from llmspec.render.terminal import OutputLost, err

    if arguments[:1] != ["run"]:
        raise OutputLost(ValueError("standard output is closed"))
    err().print("note: standard output is closed, so that what happens can be seen in the run directory only")
