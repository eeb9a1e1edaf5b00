"""The door between the two halves: Neon's API v2 as ids, wire shapes, errors, addresses and a client.

The cell presents these shapes and the fleet reads them, so a fleet works the same on its own cells and on Neon's
cloud. This package must never know a customer, a data directory or a file of either half.
"""
