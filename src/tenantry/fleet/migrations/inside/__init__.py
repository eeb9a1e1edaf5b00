"""What runs in a process of its own, most of it in the user's interpreter: one conversation, one file for each tool.

These files are run by their path and may find any Python from 3.9 on, without Tenantry: they import the standard
library, their tool and each other, and nothing else of ours. Must never write what they are told to a log, a command
line or a file: it holds a password.
"""
