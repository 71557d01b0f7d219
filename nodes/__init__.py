"""rmbus."""
