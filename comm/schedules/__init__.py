"""Collectives as data: what each rank sends, receives and combines, and the readers of that.

Knows numbers of ranks and bytes; no arrays, sockets or shared memory. Pipelines use the kernel too.

Read schedule.py (steps), an algorithm such as algorithms/rings.py, kernel.py (who may go on), then
the readers: prove.py, price.py, draw.py and picture.py on trace.py. The fourth, which runs
schedules, is sockets/transport.py. choice.py picks an algorithm by price on the links that links.py
has measured. direct.py has the schedules of ranks that read each other's memory. svg.py and
lines.py are what all pictures share, also those of other things.
"""
