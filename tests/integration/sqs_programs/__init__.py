"""Small programs around SQS libraries, for the tests that have unmodified clients talk to a gateway.

``with_javascript.cjs`` takes one argument, JSON with ``endpoint``, ``key`` and ``secret``, and prints one JSON object
of what it saw.  ``celery_tasks.py`` is a Celery application; the environment tells where it finds the gateway.
"""
