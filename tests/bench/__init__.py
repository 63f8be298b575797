"""Ratios against the peers: the same packages over loopback, in turn, medians, with the physical floor beside them."""
