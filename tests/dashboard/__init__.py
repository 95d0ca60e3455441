"""The dashboard in memory."""
