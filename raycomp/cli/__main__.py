"""Run the command line as `python -m raycomp.cli`."""

from raycomp.cli.main import main

main()
