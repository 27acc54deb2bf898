"""`ringlet watch`: a run or a job while it goes on, in the terminal or as a page.

follow reads a run's metrics as they grow, and curve keeps them small; ranks asks a launcher what
its ranks do; watched puts both together for terminal and server, which show the same. command
begins.
"""
