"""Doorway: `python cli.py` is the installed `llmspec` command."""

from llmspec.cli import main

if __name__ == "__main__":
    main()
