"""Lesson 5: the ring all-reduce, as a schedule that is proven."""
