"""The store: everything mkroot keeps between builds, addressed by the digest of its content or of its inputs."""
