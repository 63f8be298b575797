"""Artifacts other than OCI images: file trees, archives, file-system images, SBOM, manifest."""
