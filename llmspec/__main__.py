"""`python -m llmspec` is the installed `llmspec` command."""

from llmspec.cli import main

main()
