"""`tlrun COMMAND`: one file each, imported only when asked for."""
