"""What was measured, as lines, console tables, Markdown and one page."""
