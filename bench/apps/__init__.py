"""What runs inside the servers that the benches start."""

#: Those that a release can have: see release.py.
FAULTS = ("import", "hang", "500", "first", "later")
