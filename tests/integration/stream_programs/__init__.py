"""Small programs around clients of Server-Sent Events and of WebSocket, as their users would write them.

Each takes one argument, JSON with these members:

* ``http``: where the gateway is, ``http://host:port``; ``token``; ``topic``
* ``messages``: to be published, each acknowledged, instead of receiving any; then it prints ``published <cursor>``
* ``since``: a cursor, or ``earliest``: where to begin reading
* ``count``: messages to receive before it ends

and prints ``open`` whenever it has connected, ``message <cursor> <data>`` for every message, the data as JSON in ASCII,
and ``gap`` when it is told of one.  When it is cut off it comes back from the last cursor that it has seen: some of
these libraries do so by themselves, for others it takes a loop.
"""
