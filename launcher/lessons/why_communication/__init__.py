"""Lesson 1: why communication. The exercise counts bytes and seconds."""
