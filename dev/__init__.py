"""Tools of those who change the package: injected faults and mutants. Not in the wheel."""
