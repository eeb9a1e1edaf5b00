"""Postgres as a program and as a protocol: builds, templates, postmasters, the wire, its log, its names for places.

Knows nothing of tenants. Protocol code here must never touch a socket, and no code here may leave a server running
that its caller does not know of.
"""
