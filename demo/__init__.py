"""A FastAPI application behind nearcache, and a guided visit to it: ``python -m demo``.

Read ``app.py`` first: it is the part to copy. ``data.py`` and ``queries.py`` are the slow database behind it,
``visit.py`` and ``checks.py`` show what the cache does, ``screen.py`` prints it, ``server.py`` runs the application and
``__main__.py`` starts it all.
"""
