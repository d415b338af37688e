"""What is reported of a run: pictures, tables, curves, and the figures in them."""
