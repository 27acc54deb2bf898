"""Lesson 9: matrices cut by columns and by rows, forward and backward."""
