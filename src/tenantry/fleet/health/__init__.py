"""Examines a whole fleet: its catalog, its providers, its workers, and whether both sides know of the same projects.

Must never change anything or wake a tenant, ask more of a provider than its bounds allow, or report as lost what a
second look finds: an operator deletes data on what is said here.
"""
