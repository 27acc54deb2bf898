"""Functions on several ranks, for tests and notebooks: warm pools, and the pytest plugin.

May import supervisor/ and workers/. Read ranks first: what starts some ranks, calls them and waits
for them. In pool these are programs that stay (for scripts, benchmarks and our own tests); in forks
they are forks of this process: for functions of notebooks (cells), and for pytest_plugin, with
in_rank (what such a rank does) and measured (its coverage). printed shows what ranks write.
"""
