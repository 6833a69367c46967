"""A family of networks behind Ray Serve: files, replicas, and the command's life cycle."""
