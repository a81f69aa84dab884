"""Tables of labels: read, matched with the records of a store, and kept beside its samples."""
