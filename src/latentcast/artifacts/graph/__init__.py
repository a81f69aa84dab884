"""A trained model as one graph for runtimes without torch: made, compared, written, and run."""
