"""Numbers of the public reference implementations beside ours."""
