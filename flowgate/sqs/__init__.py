"""Amazon's SQS protocol: another face of the queues."""
