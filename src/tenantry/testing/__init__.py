"""What users and we test with: a whole installation, thrown away afterwards.

It is the real program in a process of its own, so that it can be killed like one. Must leave nothing behind.
"""
