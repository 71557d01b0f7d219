"""The systems under test: one module each, run by the interpreter of its own environment."""
