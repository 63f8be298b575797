"""One file with everything that a build needs: recipe, lock, local files, packages, parent images."""
