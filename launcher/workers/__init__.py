"""The programs that run in worker processes; nothing else imports them.

May import supervisor/ for the control channel. Read worker first, the guard that every worker has,
then program, which runs the script of `ringlet run`. The others are the workers of train,
bench, doctor, and the pools of testing/ (warm).
"""
