"""A tenant's life, one file for each verb: create, list, show, url, suspend, resume, rename, delete, undelete.

What is meant is written to the catalog before the provider is asked, and what was done after it; so every verb can
be repeated after a crash at any point (docs/decisions/0002). Must never leave a project at the provider that no row
of the catalog points to, and never delete one that was not named.
"""
