"""``python -m latentcast`` is the command line."""

from latentcast.cli import main

main()
