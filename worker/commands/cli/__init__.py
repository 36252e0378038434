"""The command line `rowdrop`: it finds the settings, calls the commands and prints what they return."""
