"""The only place with strings, flags and files: typed configs, train, sample, evaluate, demo."""
