"""Loops that look at the whole state and take no argument; a signal only says "sooner".

Each cycle returns a sentence saying what it did. One failing cycle is logged and never ends its loop.
"""
