"""MQTT 3.1.1: packets and session without Twisted, and the adapter that puts them on a connection."""
