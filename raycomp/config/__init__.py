"""Job files and study files: schema, loading, identity."""
