"""Text as tokens: read from files, made into ids by a tokenizer, kept in a folder, and read again.

Knows `checkpoint`'s checksums. Read folder.py (what is kept, and how it is read), then how it is
made: sources.py, pieces.py, encoder.py, output.py, build.py. spans.py and order.py say what a
sample of training is.
"""
