"""The Ray cluster: connection, capacity, parallel tasks, submission, files without a shared folder."""
