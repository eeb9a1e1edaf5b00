"""Heads, clones, history: what lies on disk for each branch, and how a new head comes to be.

Files precede the row on create, the row precedes the files on delete; what no row names is removed at start.
Must never touch a directory whose instance may be running, and never delete on a user's path.
"""
