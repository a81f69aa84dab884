"""The catalogue of faults, a file for each thing they break."""
