"""What the site adds to Sphinx: each module is an extension, which conf.py lists."""
