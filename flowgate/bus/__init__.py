"""NATS JetStream: the one room that knows subjects, streams and consumers; and fakes of it for tests."""
