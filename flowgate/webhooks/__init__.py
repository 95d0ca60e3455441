"""Webhooks: what is published on topics is sent to URLs."""
