"""Measures gunicorn_hot from the outside, as the clients of a server see it."""
