"""Networks: raw counts and times in, physical quantities out."""
