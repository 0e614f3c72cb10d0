"""The PostgreSQL that is read."""
