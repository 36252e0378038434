"""The routes: one file per route."""
