"""The replaced system: its network, and files of it."""
