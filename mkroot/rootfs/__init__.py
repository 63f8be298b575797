"""The rootfs: one tree in memory, the union of package layers, the sandbox, configuration and customisation."""
