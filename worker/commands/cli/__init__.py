"""The command line `rowdrop`: it finds the settings, calls a command and prints the result."""
