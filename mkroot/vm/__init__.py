"""Starts what was built under QEMU and takes the guest's own verdict."""
