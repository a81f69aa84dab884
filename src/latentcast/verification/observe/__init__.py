"""What claims look at: the live twin of a recipe, and what its parts did."""
