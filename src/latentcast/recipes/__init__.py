"""Named configurations as plain functions; the published ones are the published table, to the digit."""
