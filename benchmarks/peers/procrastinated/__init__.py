"""The work as a task of procrastinate's, which keeps no results: an application keeps its own."""
