"""JSON frames over WebSocket (RFC 6455): codec, connection and the resource at ``/ws``."""
