"""A small package of picture effects: the local code that the examples take with them."""
