"""The encoder: elastic, static, its costs, and its way into and out of transformers."""
