"""What a run measures once over some arms together, one study a file."""
