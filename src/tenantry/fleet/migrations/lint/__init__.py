"""Says before a rollout what in a migration will hurt: our own rules, and squawk's where it is installed.

Must never change a migration, never wake a tenant, and never let an override pass without its reason being kept.
"""
