"""The reconstruction without learning."""
