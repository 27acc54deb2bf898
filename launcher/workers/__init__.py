"""The programs that run in worker processes; nothing but testing/ imports them.

May import supervisor/ for the control channel. Read worker first, the guard that every worker has,
then program, which runs the script of `ringlet run`, and called, a rank that takes calls. The
others are the workers of train, bench, calibrate, doctor, and the pools of testing/ (warm).
"""
