"""Functions on several ranks, for tests and notebooks: warm pools, the pytest plugin, and two
hosts on one machine.

May import supervisor/. Read pool, then pytest_plugin and network_pair.
"""
