"""Places to develop and test: branches with an endpoint each, of the non-production project or of a tenant's own.

A branch is named once and found again by its name, so that a script may say the same thing twice. Must never change
a branch that customers are served from: going back in time in place is the tenants' own verb.
"""
