"""See the fake cupy."""
