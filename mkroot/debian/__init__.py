"""The Debian formats: versions, relations, stanzas, Release files, .deb packages. No I/O beyond what is handed in."""
