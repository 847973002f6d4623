"""What was measured, for people to read: tables, figures, one page that holds them all; `paper` has the paper's own numbers."""
