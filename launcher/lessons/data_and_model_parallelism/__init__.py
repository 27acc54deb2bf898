"""Lesson 2: data and model parallelism. The exercise cuts a batch and a model."""
