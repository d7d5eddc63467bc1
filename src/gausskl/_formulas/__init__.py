"""The mathematics: assignments and one return, on arrays of any library.

``xp`` is handed over by keyword; no decision depends on a value, except in :mod:`.near_or_far` and :mod:`.pairs`, which
choose where values can be read. Every term is at least 0, and differences are taken before anything is divided. These
modules may import ``_arrays`` and ``_checks``. A new formula states its range and its error, and has its gradient and
its line in :mod:`.pairs`; ``tests/test_law.py`` reads it.
"""
