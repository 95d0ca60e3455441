"""The Billing Guard: what accounts may publish, what they have published, and the ledger of it."""
