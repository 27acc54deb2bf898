"""`ringlet report`: what runs did, beside what was predicted, as one HTML file.

command.py is the command, runs.py reads a run's folder, page.py makes a page of sections; the
others make the sections. Pictures are those of comm/schedules/lines.py and commands/explain.
"""
