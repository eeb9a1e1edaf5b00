"""Tenantry: a Postgres database for every customer, asleep at no cost and awake in milliseconds.

``cell`` is the data plane of one machine, ``fleet`` the control plane over any number of them; they meet at the door
that ``neon`` describes. Each package says at its top what it is for and what it must never do.
"""
