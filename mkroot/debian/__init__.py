"""The Debian formats: versions, relations, stanzas, Release files and .deb packages. No I/O beyond what is handed in."""
