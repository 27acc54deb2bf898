"""`ringlet data`: text becomes a folder of tokens (build.py), and is looked at (show.py)."""
