"""What the operator types: parse, call, print. No decision about a fleet or a cell is made here.

Each group of commands has its own file and imports what is heavy only inside its commands, so that help and
completion are instant. Must never put a password on a command line or print a traceback.
"""
