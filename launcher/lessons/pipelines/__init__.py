"""Lesson 3: pipelines. The exercise is 1F1B."""
