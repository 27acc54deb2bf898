"""A job on several hosts: an agent on each, which meet, report failures, and agree on the end.

May import supervisor/. Read options, placed and node (what the command line or an engine says),
notices, network_agent, coordinator and node_agent, agents (which one a job needs), then ssh;
addresses serves node.
"""
