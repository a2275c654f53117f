"""Runs shown in other tools while they train: a file for each tool."""
