"""Who may do what: API keys, tokens and grants."""
