"""``/api/v1/admin/…``: users, API keys, shares and the audit log, for who holds the admin token."""
