"""Reports of a run: pictures, tables, curves, and their figures."""
