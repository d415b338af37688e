"""Programs, run by hand, that measure speed, memory and quality.

A package, because a folder without this file is hidden by any installed package of the same name (pyarrow
17 installs one).
"""
