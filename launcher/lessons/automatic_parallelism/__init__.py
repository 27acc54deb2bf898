"""Lesson 8: memory and time of a mesh, and the choice of the best."""
