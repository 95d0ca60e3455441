"""The dashboard: who may sign in, their sessions, the pages, and the calls that the pages make."""
