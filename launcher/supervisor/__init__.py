"""The workers of one host: their environment, processes and output, from start to end.

May import comm.join and comm.objects, and nothing of the launcher's other folders; knows of other
hosts only what an Agent answers. Read environment, signals, process, warden, control, writer,
output, agent, supervisor, restarts; cores, failure, listing and options serve them.
"""
