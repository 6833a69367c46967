"""Everything that touches Ray: actors, Train, Tune, and the driver that strings them together."""
