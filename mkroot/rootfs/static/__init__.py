"""Configuration without a script: what maintainer scripts would make of the packages of a distroless image."""

from mkroot.rootfs.static.configure import NotRun, StaticReport, configure_static

__all__ = ["NotRun", "StaticReport", "configure_static"]
