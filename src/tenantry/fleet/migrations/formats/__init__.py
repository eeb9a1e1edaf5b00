"""One file for each migration tool whose folder and ledger we read and write, behind the interface of ``base.py``.

A format keeps the tool's own ledger exactly as the tool does, so that leaving us, or running the tool beside us, costs
nothing. It reads files and decides; the transaction, the lock and the timeouts belong to the runner.
"""
