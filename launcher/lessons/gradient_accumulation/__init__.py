"""Lesson 7: gradients of several micro-batches, and buckets under backward."""
