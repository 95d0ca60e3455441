"""Queue semantics: what a queue promises, on every protocol."""
