"""Flow-Gate: a multi-protocol messaging gateway on Twisted and NATS JetStream."""

__version__ = "0.1.0"
