"""The replaced system's newest version: its inputs, its networks with masked encoder, and files of it."""
