"""The PostgreSQL that is read.

`connection` opens sessions with pinned settings · `preflight` says what would fail, `catalog` and
`patterns` which tables are meant · `publication` and `slot` own what a group has at the source ·
`walsender` streams, `pump` drains libpq · `snapshot` holds the copy's snapshot and locks, `ranges`
cuts tables · `drop` removes it all.
"""
