"""The cell's memory: one SQLite file with one writer, and the only SQL on it (``tables.py``, ``schema.sql``).

Must never be asked on the event loop: reads and writes run on threads of their own.
"""
