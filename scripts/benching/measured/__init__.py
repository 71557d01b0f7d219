"""What runs inside a system under test, in environments that hold numpy and that system alone."""
