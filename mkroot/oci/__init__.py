"""OCI: layers, image configuration, image layouts and the image store."""
