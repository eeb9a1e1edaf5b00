"""The guide's story, told on a throwaway cell and fleet: real processes, real Postgres, real times.

It uses what a customer would use: the program ``tenantry up``, the fleet's verbs, and psycopg through the front door.
Must clean up after itself, also when it is interrupted.
"""
