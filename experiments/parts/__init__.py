"""The parts of a run: what the names in a config stand for."""
