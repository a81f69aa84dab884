"""One call for each verb: from a store to a run, from a run to its scores, and how fast it is."""
