"""What operators are shown: figures for Prometheus, and how the nodes are."""
