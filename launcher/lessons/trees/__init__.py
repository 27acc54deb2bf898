"""Lesson 6: trees, pipelined chains and rings both ways."""
