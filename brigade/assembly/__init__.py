"""From what was asked to an engine that runs: the one assembly line of every face, rank and replica."""
