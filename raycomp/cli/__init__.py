"""The command line: one module per group of commands, their options and their printed output."""
