"""Serving a family of networks: requests, the choice of the network, and the queue. Without Ray."""
