"""Durable work over many tenants, on any number of machines, and the passes that look after the whole fleet.

A job names a kind of work and its subjects. They are cut into batches; workers claim a batch, do its items and write
what became of each. Work is done at least once: a worker may die after it did something and before it said so, so every
kind's function must be safe to do again. Must never record a result over that of a later claim, begin an item that is
done, or put a secret into a job's arguments, inputs or results: all of them are rows that operators read.
"""
