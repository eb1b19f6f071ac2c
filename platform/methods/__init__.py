"""What a method adds on the driver's side: preparations before a sweep, tables and pictures after it."""
