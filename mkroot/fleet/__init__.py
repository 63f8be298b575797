"""Many recipes, suites, architectures and machines in one run."""
