"""Pictures and traces of what was recorded: draw, trace."""
