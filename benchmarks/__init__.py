"""Flow-Gate beside its peers: the same work on each, in turn, on the same machine (Linux)."""
