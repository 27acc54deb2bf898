"""Calls in flight: each has a number in its group, a transport, a deadline, and an end.

May import everything of comm but group.py and world.py. Read kinds.py (what calls that are alike
have in common), collectives.py (what a call does with its arrays), active_call.py (what drives it),
channel.py (what a group knows of its calls), then agreement.py and diagnosis.py (what can go
wrong). progress.py and work.py are for asynchronous calls, transfer.py is point to point,
hierarchy.py is for several hosts.
"""
