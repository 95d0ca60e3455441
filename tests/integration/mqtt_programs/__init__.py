"""Small programs around MQTT libraries, for the tests that have unmodified clients talk to a gateway.

Each takes one argument, JSON with these members:

* ``url``: ``mqtt://host:port`` or ``ws://host:port/path``; ``token``; ``id``; ``clean``; ``qos``
* ``filters``: to subscribe to; none for a session that has its subscriptions
* ``count``: messages to receive before it disconnects: 0 to do so once it is subscribed, -1 to go on until it is ended
* ``topic``, ``messages``: to be published, instead of receiving any
* ``retain``, ``will`` (``topic``, ``message``, ``qos``, ``retain``), ``keepalive``: optional

and prints lines: ``connected 0`` or ``connected 1`` (session present), ``subscribed <codes>``,
``message <topic> <qos> <retain> <text>``, ``disconnected``.
"""
