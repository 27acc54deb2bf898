"""The commands of `ringlet`: one file or folder for each, and options.py, which makes their
options out of dataclasses.

May import everything in the launcher but cli, and nn and runtime. Read run first.
"""
