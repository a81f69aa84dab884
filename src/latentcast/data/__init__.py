"""From files to integer batches: ingest, the memory-mapped store, stateless order, and the loader."""
