"""An artifact behind HTTP: recordings in, embeddings, predictions and neighbours out."""
