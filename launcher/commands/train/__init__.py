"""`ringlet train`: prepare checks what is asked for and makes the workers' task, command starts
the workers, and progress and the trackers show what they report (workers/train_worker.py). planned
and automatic take choices from a plan, which trials measures.
"""
