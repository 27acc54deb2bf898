"""`ringlet explain`: collectives, pipeline schedules and training steps, drawn from the code that
runs.

Read collective, then pipeline. The topics of a step share chart (how they are shown) and subject
(whose step); group makes one command of all.
"""
