"""HTTP: tokens, publish, Server-Sent Events, history, queues and administration, behind Klein."""
