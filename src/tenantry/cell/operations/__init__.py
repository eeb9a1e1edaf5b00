"""Changes, one file per verb: each decides in a pure function, is written down, and is carried out in steps.

Every step may run twice and is harmless the second time, so a kill at any moment is repaired by going on. A
project has one change at a time. Must never answer before what it answers is durable.
"""
