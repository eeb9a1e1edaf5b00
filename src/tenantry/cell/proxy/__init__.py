"""The front door: Postgres clients come in here, prove who they are, and are let through to their instance.

A connection is worth nothing until its client has proved a password: before that nothing is woken, started or
told, and a name that does not exist looks and costs the same as a wrong password. After it, bytes are relayed
untouched. The door must never write durably, never block its event loop, never hold more of a session than one
shared buffer's worth, and never let a password or a key reach a log or another tenant.
"""
