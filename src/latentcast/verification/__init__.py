"""Claims measured against reference numbers; nothing here reads a configuration and believes it."""
