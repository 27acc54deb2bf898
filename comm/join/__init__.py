"""How the processes of a job find and trust each other, before the first collective.

Knows sockets and files, but no arrays, groups or calls (of `schedules`, only how RINGLET_ALGORITHM
and RINGLET_LINKS are written). Launchers use it too.

Read environment.py (who am I), rendezvous.py on meeting.py (who are the others), then key.py and
authenticator.py (who may join). launchers.py (who has started this process), with slurm.py and
kubernetes.py, folders.py and addresses.py serve them.
"""
