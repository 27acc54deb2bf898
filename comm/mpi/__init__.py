"""The way through MPI: the messages of sockets/ over an MPI library, where a fabric is faster so.

May import `join` and `sockets`. Read fabric.py (messages), meeting.py (how the ranks find each
other), library.py (the library's own all-reduce). Nothing imports it, or mpi4py, unless it is asked
for: RINGLET_TRANSPORT=mpi.
"""
