"""Small programs around libraries that judge what the gateway says of itself.

``with_asyncapi.cjs`` reads an AsyncAPI document from its standard input and prints what the official parser finds:
JSON with ``version`` and ``diagnostics``.  The page of documentation is judged by axe-core, inside a browser.
"""
