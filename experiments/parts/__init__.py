"""The parts of a run: the objects that the names in a config stand for."""
