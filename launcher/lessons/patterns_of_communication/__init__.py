"""Lesson 4: patterns of communication. The exercise is four collectives as schedules."""
