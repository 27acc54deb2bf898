"""Lesson 11: attention block by block, and round a ring."""
