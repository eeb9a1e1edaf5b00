"""The data plane of one machine: it owns projects, their branches, endpoints and histories.

It knows nothing of customers. Two cells share nothing. It must never lose an acknowledged commit, and never let
one project's processes see another's files.
"""
