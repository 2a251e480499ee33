"""Programs that show the library at work; each is run with ``python -m examples.<name>``."""
