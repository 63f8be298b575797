"""The client of image registries (distribution-spec 1.1): one noun a module, no state but connections and tokens."""
