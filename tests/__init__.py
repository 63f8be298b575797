"""The tests: unit (fast, offline) and integration (real archives, real tools)."""
