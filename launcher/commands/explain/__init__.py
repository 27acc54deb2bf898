"""`ringlet explain`: collectives and pipeline schedules, drawn, proven and priced.

Read collective, then pipeline; group makes one command of both.
"""
