"""Instances: who is awake, who may wake, who may sleep.

An instance wakes once for all who wait, stays awake while somebody holds a lease, and outlives the control
process. It must never be started twice on one head, and never be stopped while busy unless someone insists.
"""
