"""Source → broker."""
