"""From files to integer batches: ingest, memory-mapped store, stateless order, loader."""
