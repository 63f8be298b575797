"""Resolution: which packages, why each, in which order; and the lock. Pure: no I/O."""
