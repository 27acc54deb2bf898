"""The way through shared memory: ranks of one host read and write each other's arrays.

May import `schedules`, and knows no sockets. Read lower.py (the proven steps, cut to arrays),
steps.py (bound to memory), transport.py (run), control_block.py (fences). segment.py and regions.py
are shared memory itself, attach.py reaches a peer's through the kernel, exposure.py makes it safe.
combine.py and fused.py do the arithmetic.
"""
