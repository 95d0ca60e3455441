"""Tests of the queues' semantics."""
