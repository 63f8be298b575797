"""Configuration without a script: what maintainer scripts would make of the packages of a distroless image."""
