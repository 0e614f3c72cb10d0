"""The last module that a fork server imports: from here on garbage is looked for again.

Upstream: `processes`. Downstream: the children, which find what was imported frozen: nobody looks
through it, so that its pages stay shared between them.
"""

from __future__ import annotations

import gc

gc.freeze()
gc.enable()
