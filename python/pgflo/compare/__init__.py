"""Whether source and destination are equal.

`sessions` opens both sides · `wait` until the destination has what the source had · `plan` pairs
the tables · `digest` has each server hash its own rows · `run` puts it together. Only counts and
hashes leave the servers, never rows.
"""
