"""Builds of Postgres from the registry that npm is configured for on this machine; node itself is not needed.

Must never unpack what does not match the checksum that the registry gave, never write outside of the directory it was
given, never follow a package's links, and never send a token anywhere but where npm's configuration puts it.
"""
