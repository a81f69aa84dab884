"""The claims, a file for each thing they are about; each measures and none believes."""
