"""What every search over sub-networks shares: space, costs, distribution, moves, searchers."""
