"""Neon's API v2 over HTTP: it reads requests, asks the cell through :mod:`tenantry.cell.api.ports`, and presents.

Handlers hold no state and decide nothing about projects. This package must never answer 5xx to bad input, show a
key or a password to anyone but the caller who asked for it, or read a request body without a bound.
"""
