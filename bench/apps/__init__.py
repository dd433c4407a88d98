"""What runs inside the servers that the benches start."""
