"""Functions on several ranks, for tests and notebooks: warm pools, and the pytest plugin.

May import supervisor/. Read pool, then pytest_plugin.
"""
