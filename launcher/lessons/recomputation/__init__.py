"""Lesson 10: recomputation under a limit, PowerSGD with error feedback, an order of sending."""
