"""The Python API: what the command line does, as functions and objects for scripts and notebooks.

Import the public names from `raycomp` itself; docs/reference/python.md describes them.
"""
