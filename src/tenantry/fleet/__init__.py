"""The control plane: it knows customers, and which project of which provider is theirs.

It reaches databases through ``neon.client`` and SQL alone, so it runs the same on our own cells and on Neon's
cloud. Must never import the cell, and never keep a tenant's password: connection URIs come from the provider
when they are needed.
"""
