"""Generators of documents and linters that are not part of the product."""
