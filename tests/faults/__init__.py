"""Faults, injected at every call of a build, on the disk and in the store: each run ends right or says why not."""
