"""The programs that run in worker processes; nothing else imports them.

May import supervisor/ for the control channel. Read worker first: the guard that every worker has,
and how `ringlet run` starts a script. The others are the workers of train, bench, doctor, and the
pools of testing/ (warm).
"""
