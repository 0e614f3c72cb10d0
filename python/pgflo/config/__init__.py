"""Settings: what the user typed, as frozen, checked models.

`option` what an option is · `options` the table of them · `file` the configuration file ·
`settings` the models that every package takes; none of them reads files or the environment itself.
"""
