"""Engines that place processes on hosts and start them again: Slurm and others (`ringlet submit`).

May import supervisor/ and hosts/. Read engine (what they have in common), then one of them. What an
engine needs is imported where it is asked for.
"""
