"""The way through sockets: arrays as messages, between processes and hosts.

May import `schedules` and `join`. Read wire.py (a message), transport.py (schedules as messages),
messages.py (those of one call), endpoint.py and inbox.py (all of a process): ZeroMQ's sockets, for
words, and for arrays on one host. tcp_sockets.py and tcp_socket.py are plain ones, for arrays by
TCP, which introductions.py connects; arriving.py brings them where they belong. credits.py bounds
what is on its way; listener.py and outbox.py are the ends of connections; seals.py and ciphers.py
encrypt what leaves the host; liveness.py and notices.py are about the peers.
"""
