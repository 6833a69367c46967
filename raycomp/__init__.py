"""raycomp: compress a fine-tuned encoder once on Ray, then deploy it under every budget."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("raycomp")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
