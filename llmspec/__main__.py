from llmspec.cli import main

main()
