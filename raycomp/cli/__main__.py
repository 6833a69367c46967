"""Run the command line with `python -m raycomp.cli`."""

from raycomp.cli.main import main

main()
