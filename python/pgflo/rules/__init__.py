"""Rules and routing: files into what the native core compiles.

`nodes` a file as a tree that knows its places · `models` what may stand in it · `read` both
together, with every mistake · `spec` what the core takes · `bind` names resolved to the group's
tables · `destinations` where rows go, for whoever prepares the destination · `check` against its
catalog.
"""
