"""Brings tables and what they need from the source to the destination: `--target-sync-schema`.

Before the rows (`sync`): find what the group's tables need (`needs`), let pg_dump write it down
(`programs`, `dump`, `archive`), choose the entries (`choice`), compare with what the destination
has (`plan`), store what it lacks there (`ledger`), and make the first stage of it (`build`).
After the rows (`build`): keys, then everything else, over several connections.

Nothing that exists is changed. Each part is made in the transaction that marks it as done, so that
a crash between any two of them costs nothing, and a part is never made twice.
"""
