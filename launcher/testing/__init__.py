"""Functions on several ranks, for tests and notebooks: warm pools, and the pytest plugin.

May import supervisor/ and workers/. Read ranks, then pool, forks, and pytest_plugin.
"""
