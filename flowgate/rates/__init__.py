"""How fast accounts, keys and strangers may go."""
